"""A task that is begun anew only once the one before it has ended, whoever is in how much of a hurry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Life:
    """One resident's, from one order to load it to the next."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._before: asyncio.Task[None] | None = None

    def begin(self, live: Callable[[], Awaitable[None]], name: str) -> None:
        """Has `live` run, once what runs has ended."""
        self._before = before = self._task

        async def run() -> None:
            try:
                await _end(before)
            finally:
                await _ended(before)  # also where this is ended before it began: the next one must not live beside that
            await live()

        self._task = asyncio.get_running_loop().create_task(run(), name=name)

    async def begun(self) -> None:
        """Waits until what ran before has ended; where the caller gives up, it ends all the same."""
        await _end(self._before)

    async def end(self) -> bool:
        """Ends what runs, even where the caller gives up; False where it was begun anew meanwhile."""
        task, before = self._task, self._before
        await _end(task)
        await _end(before)  # where the other was ended before it began
        return self._task is task


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        if not task.cancelling():  # a second one would keep it from ending its worker
            task.cancel()
        await _ended(task)


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        await asyncio.wait([task])
