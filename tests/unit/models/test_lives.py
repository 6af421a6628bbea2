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


class Living:
    """What runs for one resident, as lives that end only when the test says so."""

    def __init__(self) -> None:
        self.life = Life()
        self.up: list[str] = []
        self.stopped = asyncio.Event()

    def begin(self, name: str) -> None:
        async def live() -> None:
            self.up.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                await self.stopped.wait()  # for its worker
                self.up.remove(name)

        self.life.begin(live, name)


async def _turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_third_waits_for_the_first_too():
    living = Living()
    try:
        for name in ("first", "second", "third"):
            living.begin(name)
            await _turn()
            assert living.up == ["first"]
        begun = asyncio.create_task(living.life.begun())
    finally:
        living.stopped.set()
    await begun
    assert "first" not in living.up
    await asyncio.sleep(0)
    assert living.up == ["third"]
    assert await living.life.end()
    assert living.up == []


async def test_who_comes_third_waits_for_the_first_too_where_the_second_was_ended_before_it_began():
    living = Living()
    living.begin("first")
    await _turn()

    async def begun_and_ended() -> bool:
        living.begin("second")
        return await living.life.end()

    try:
        second = asyncio.create_task(begun_and_ended())
        await _turn()
        living.begin("third")
        await _turn()
        assert living.up == ["first"]
    finally:
        living.stopped.set()
    assert not await second, "it was begun anew meanwhile"
    await _turn()
    assert living.up == ["third"]
    assert await living.life.end()
    assert living.up == []
