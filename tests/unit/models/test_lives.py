"""What runs for a resident, from one order to load it to the next."""

from __future__ import annotations

import asyncio

from edged.models.lives import Life


async def test_what_ran_has_ended_also_where_what_was_to_follow_never_began():
    life, ended = Life(), asyncio.Event()

    async def live() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # as a worker that is ended
            ended.set()

    life.begin(live, "first")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    life.begin(live, "second")
    assert await life.end()
    assert ended.is_set()
