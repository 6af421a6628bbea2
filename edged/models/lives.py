"""A task that is begun anew only once all before it have ended, whoever is in how much of a hurry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence


class Life:
    """One resident's, from one order to load it to the next."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        """The newest last, after those that had not ended when it was begun."""

    def begin(self, live: Callable[[], Awaitable[None]], name: str) -> None:
        """Has `live` run, once what runs has ended."""
        before = [task for task in self._tasks if not task.done()]

        async def run() -> None:
            await _end(before)
            await live()

        self._tasks = [*before, asyncio.get_running_loop().create_task(run(), name=name)]

    async def begun(self) -> None:
        """Waits until what ran before has ended; where the caller gives up, it ends all the same."""
        await _end(self._tasks[:-1])

    async def end(self) -> bool:
        """Ends what runs, even where the caller gives up; False where it was begun anew meanwhile."""
        tasks = self._tasks
        await _end(tasks)
        return self._tasks is tasks


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if not task.cancelling():  # a second one would keep it from ending its worker
            task.cancel()
    if tasks:
        await asyncio.wait(tasks)
