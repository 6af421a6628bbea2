"""Time is passed in: wall time for logs and expiry, monotonic time for durations and deadlines."""

from __future__ import annotations

import time
from datetime import UTC, datetime

# struct timex of Linux is smaller on every architecture; all zeros change nothing.
_TIMEX_BYTES = 512
_TIME_ERROR = 5


def wall() -> datetime:
    """The time of day in UTC. It may jump; nothing is measured with it."""
    return datetime.now(UTC)


def wall_ms() -> int:
    """The time of day as milliseconds since 1970 (UTC)."""
    return time.time_ns() // 1_000_000


def monotonic() -> float:
    """Seconds from an arbitrary start that never go back; the clock that asyncio's loop uses too."""
    return time.monotonic()


def monotonic_ns() -> int:
    """The same in nanoseconds, and exact: the time of uvloop's loop comes in milliseconds."""
    return time.monotonic_ns()


def trusted(*candidates: datetime | None) -> datetime:
    """What time it is at least: the latest of the system's, the image's build time and the newest signed time seen.

    A clock that is behind must not make valid again what has expired. None of them but the signed time is ever kept:
    a clock that once said 2100 must not block updates and commands for ever.
    """
    return max(each for each in candidates if each is not None)


def synchronized() -> bool:
    """Whether the kernel holds the time of day to be right, as adjtimex(2) tells: somebody keeps it so."""
    import ctypes  # here: only the daemon asks, once a window

    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    return bool(0 <= ctypes.CDLL(None).adjtimex(timex) < _TIME_ERROR)
