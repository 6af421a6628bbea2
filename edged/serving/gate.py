"""How many batches of all models may be computed at the same time, and whose turn is next.

Better priorities go first; of eight turns in a row at least one goes to whoever waits longest. A model has at most one
batch that waits here. Whoever computes when the number shrinks goes on: the next turn comes when enough have ended.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import msgspec

from edged.serving.waiting import FAIR_BATCHES

# A turn that has lasted so long is counted no more, so that a model that hangs does not hold up the others.
HELD_S = 2.0

LevelNow = Callable[[], int]


class _Waiter(msgspec.Struct, eq=False):
    level: LevelNow
    """The priority of whoever would lead its batch now."""
    turn: asyncio.Future[int]


class Gate:
    """For all models together."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = 0
        self._numbers = itertools.count(1)
        self._turns: dict[int, float] = {}
        """Since when each has lasted, on the loop's clock."""
        self._waiting: list[_Waiter] = []
        self._unfair = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def most(self) -> int:
        """How many turns there may be at a time; 0: any number."""
        return self._most

    @most.setter
    def most(self, most: int) -> None:
        self._most = most
        self._let_in()

    async def turn(self, level: LevelNow) -> int:
        """Waits for a turn, and gives its number for `end`. `level` is asked for when a turn is to be given."""
        if not self._most or (not self._waiting and self._counted() < self._most):
            return self._begin()
        waiter = _Waiter(level, self._loop.create_future())
        self._waiting.append(waiter)
        self._let_in()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.turn.cancelled():
                self.end(waiter.turn.result())
            raise

    def end(self, number: int) -> None:
        """A turn is over."""
        del self._turns[number]
        if self._waiting:
            self._let_in()

    def _begin(self) -> int:
        number = next(self._numbers)
        self._turns[number] = self._loop.time()
        return number

    def _counted(self) -> int:
        if len(self._turns) < self._most:
            return len(self._turns)
        since = self._loop.time() - HELD_S
        return sum(began > since for began in self._turns.values())

    def _let_in(self) -> None:
        """Gives the turns that there are, and looks again when one has lasted too long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and (not self._most or self._counted() < self._most):
            waiter = self._next()
            self._waiting.remove(waiter)
            if not waiter.turn.done():
                waiter.turn.set_result(self._begin())
        if self._waiting:
            since = self._loop.time() - HELD_S
            oldest = min((began for began in self._turns.values() if began > since), default=since)
            self._timer = self._loop.call_at(oldest + HELD_S, self._let_in)

    def _next(self) -> _Waiter:
        oldest = self._waiting[0]
        best = min(self._waiting, key=lambda waiter: waiter.level())
        if best is oldest or self._unfair >= FAIR_BATCHES - 1:
            self._unfair = 0
            return oldest
        self._unfair += 1
        return best
