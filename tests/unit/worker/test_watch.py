"""Looks that are often during work and seldom otherwise, all at the same time."""

from __future__ import annotations

import asyncio

import pytest
from support.standins import Clock, settle

from edged.worker.watch import Watch, next_turn


class Looks:
    """Counts the looks."""

    def __init__(self) -> None:
        self.count = 0
        self.busy = False
        self.watch = Watch(self._look, lambda: self.busy)

    def _look(self) -> None:
        self.count += 1


@pytest.fixture
async def looks():
    made = Looks()
    yield made
    made.watch.stop()


async def passed(clock: Clock, seconds: float, step_s: float = 0.05) -> None:
    for _ in range(round(seconds / step_s)):
        clock.forward(step_s)
        await settle()


async def test_it_looks_often_during_work_and_seldom_otherwise(looks):
    clock = Clock()
    await passed(clock, 20)
    assert 9 <= looks.count <= 11
    looks.busy, before = True, looks.count
    looks.watch.quicken()
    looks.watch.quicken()
    await passed(clock, 2)
    assert 12 <= looks.count - before <= 21
    looks.busy, before = False, looks.count
    await passed(clock, 20)
    assert 9 <= looks.count - before <= 12


async def test_work_that_is_over_at_once_is_looked_at_all_the_same(looks):
    clock = Clock()
    looks.watch.quicken()
    await passed(clock, 0.2)
    assert looks.count >= 1


async def test_a_watch_that_is_stopped_looks_no_more(looks):
    clock = Clock()
    looks.watch.stop()
    looks.watch.quicken()
    await passed(clock, 10)
    assert looks.count == 0


async def test_a_look_may_be_the_last():
    clock = Clock()
    seen = []

    def look() -> None:
        seen.append(1)
        watch.stop()

    watch = Watch(look, lambda: True)
    await passed(clock, 10)
    assert seen == [1]


async def test_all_that_is_seldom_wakes_together():
    loop = asyncio.get_running_loop()
    for period_s in (1, 2, 5):
        at = next_turn(period_s)
        assert at % period_s == 0
        assert 0 < at - loop.time() <= period_s + 0.001
