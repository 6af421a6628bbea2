"""A task that is begun anew only once the one before it has ended, whoever is in how much of a hurry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Life:
    """One resident's, from one order to load it to the next."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, live: Callable[[], Awaitable[None]], name: str) -> None:
        """Has `live` run, once what runs has ended."""
        before = self._task

        async def run() -> None:
            await _end(before)
            await live()

        self._task = asyncio.get_running_loop().create_task(run(), name=name)

    async def end(self) -> bool:
        """Ends what runs, even where the caller gives up; False where it was begun anew meanwhile."""
        task = self._task
        await _end(task)
        return self._task is task


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        if not task.cancelling():  # a second one would keep it from ending its worker
            task.cancel()
        await asyncio.wait([task])
