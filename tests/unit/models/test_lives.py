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


async def test_who_comes_third_waits_for_the_first_too():
    life, up, stopped = Life(), [], asyncio.Event()

    def lives(name: str):
        async def live() -> None:
            up.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                await stopped.wait()  # for its worker
                up.remove(name)

        return live

    try:
        for name in ("first", "second", "third"):
            life.begin(lives(name), name)
            for _ in range(5):
                await asyncio.sleep(0)
            assert up == ["first"]
        begun = asyncio.create_task(life.begun())
    finally:
        stopped.set()
    await begun
    assert "first" not in up
    await asyncio.sleep(0)
    assert up == ["third"]
    assert await life.end()
    assert up == []
