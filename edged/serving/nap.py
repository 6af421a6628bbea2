"""Waits to the microsecond: the loop's own timers are of whole milliseconds, so short waits go by timerfd(2)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import os

from edged import clock

_CLOCK_MONOTONIC = 1

# From here on the loop's own timers are exact enough.
_SHORT_NS = 5_000_000


class _Time(ctypes.Structure):
    """`struct itimerspec` of timerfd_settime(2): once, `s` and `ns` from now."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class Nap:
    """One for a loop, which it wakes by a descriptor of its own."""

    def __init__(self) -> None:
        """Raises OSError when the system has no timer left."""
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._time = _Time()
        self._where = ctypes.byref(self._time)
        self._due: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._armed_ns = 0
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop.add_reader(self._descriptor, self._fire)

    async def wait(self, news: asyncio.Future[None], limit_ns: int) -> None:
        """Waits until somebody has resolved `news`, for at most `limit_ns`."""
        if limit_ns < _SHORT_NS:
            self._wake(news, limit_ns)
            await news
        else:
            await asyncio.wait([news], timeout=limit_ns / 1e9)

    def _wake(self, future: asyncio.Future[None], after_ns: int) -> None:
        now_ns = clock.monotonic_ns()
        self._count += 1
        heapq.heappush(self._due, (now_ns + after_ns, self._count, future))
        if not self._armed_ns or now_ns + after_ns < self._armed_ns:
            self._arm(now_ns)

    def close(self) -> None:
        """Nobody is woken any more."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _arm(self, now_ns: int) -> None:
        """For the first of those that still wait."""
        while self._due and self._due[0][2].done():
            heapq.heappop(self._due)
        self._armed_ns = self._due[0][0] if self._due else 0
        if self._due:
            self._time.ns = max(self._armed_ns - now_ns, 1)
            self._libc.timerfd_settime(self._descriptor, 0, self._where, None)

    def _fire(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was set anew after it had fired
            os.read(self._descriptor, 8)
        now_ns = clock.monotonic_ns()
        while self._due and self._due[0][0] <= now_ns:
            future = heapq.heappop(self._due)[2]
            if not future.done():
                future.set_result(None)
        self._arm(now_ns)
