"""Looks at a process often while it works and seldom while it does not, so that an idle daemon sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# How often while it works, and while it does not.
_BUSY_S = 0.1
_IDLE_S = 2


def next_turn(period_s: int) -> float:
    """The loop's next time that is a multiple of `period_s` whole seconds.

    All that wakes at such times wakes together: however many they are, they wake the loop at most once a second.
    """
    return (asyncio.get_running_loop().time() // period_s + 1) * period_s


class Watch:
    """Calls `look`: soon after `quicken` and often from then on, until `busy` says that the work is done."""

    def __init__(self, look: Callable[[], None], busy: Callable[[], bool]) -> None:
        self._look = look
        self._busy = busy
        self._quick = False
        self._stopped = False
        self._timer = self._seldom()

    def quicken(self) -> None:
        """Work has begun."""
        if not self._quick and not self._stopped:
            self._quick = True
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(_BUSY_S, self._turn)

    def stop(self) -> None:
        """No more looks."""
        self._stopped = True
        self._timer.cancel()

    def _seldom(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_at(next_turn(_IDLE_S), self._turn)

    def _turn(self) -> None:
        self._look()
        if self._stopped:  # by the look itself
            return
        self._quick = self._busy()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_BUSY_S, self._turn) if self._quick else self._seldom()
