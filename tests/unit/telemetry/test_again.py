"""What the broker would not have is tried again: by one timer, ever more rarely, and soon again after success."""

from __future__ import annotations

import asyncio

import pytest

from edged.telemetry import again
from edged.telemetry.again import Again


@pytest.fixture
def delays(monkeypatch):
    """Those that the loop was asked for; each is over at once."""
    found = []
    real = asyncio.BaseEventLoop.call_later

    def call_later(self, delay_s, call, *arguments, **others):
        if delay_s < again.LEAST_S:
            return real(self, delay_s, call, *arguments, **others)
        found.append(delay_s)
        return real(self, 0, call, *arguments, **others)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_later", call_later)
    return found


async def test_the_delay_doubles_up_to_an_hour_and_begins_anew_after_success(delays):
    called = asyncio.Event()
    tried = Again(called.set)
    for _ in range(8):
        tried.later()
        tried.later()  # one is due already
        await called.wait()
        called.clear()
    assert delays == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    tried.reset()
    tried.later()
    assert delays[-1] == 60
    tried.reset()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not called.is_set()
