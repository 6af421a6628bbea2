"""Lets coroutines wait for the next change of a state that they then read themselves: the newest, nothing queued."""

from __future__ import annotations

import asyncio


class Changes:
    """Counts changes. A slow waiter sees one change where there were many."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def mark(self) -> None:
        """Something changed."""
        self.count += 1
        happened, self._next = self._next, asyncio.Event()
        happened.set()

    async def after(self, count: int) -> int:
        """Waits until there were more than `count` changes; gives how many there were."""
        while self.count <= count:
            await self._next.wait()
        return self.count
