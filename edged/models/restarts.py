"""When a worker that died is started again. Pure."""

from __future__ import annotations

from typing import TypeGuard

from edged.errors import Code, EdgedError
from edged.worker.process import LostError

# So many deaths in a row, with no answer between, are no accident any more.
LOOP_DEATHS = 5

# Requests wait for a worker that is back within this time; for a longer delay they are refused at once.
_WORTH_WAITING_S = 2.0

_SHORT = (Code.MEMORY_SHORT, Code.STORAGE_FULL)
_WANTS = (Code.MEMORY_SHORT, Code.DEVICE_UNAVAILABLE)
_MAY_PASS = (Code.WORKER_CRASHED, Code.WORKER_HANG, *_SHORT, *_WANTS)


def delay_s(deaths: int, least_s: float, longest_s: float) -> float:
    """How long to wait after `deaths` in a row: not at all after the first, then ever longer."""
    if deaths <= 1:
        return 0.0
    return float(min(least_s * 2.0 ** min(deaths - 2, 30), longest_s))


def is_soon(delay_s: float) -> bool:
    """Whether requests wait for a worker that is started after this time; else they are refused at once."""
    return delay_s <= _WORTH_WAITING_S


def is_loop(deaths: int) -> bool:
    """Whether the variant is at fault."""
    return deaths >= LOOP_DEATHS


def in_words(deaths: int, how: str, delay_s: float) -> str:
    """What a model's callers are told after `deaths` in a row, of which the last was so."""
    loop = "in a crash loop, " if is_loop(deaths) else ""
    when = f"in {delay_s:g} s" if delay_s else "now"
    return f"{loop}its worker ended ({how}); it is started again {when}"


def may_pass(error: EdgedError | OSError) -> bool:
    """Whether what kept a worker from coming up may be gone the next time: it was killed, or the device was short."""
    if isinstance(error, LostError):
        return False
    return isinstance(error, OSError) or error.code in _MAY_PASS


def is_at_fault(error: EdgedError | OSError) -> bool:
    """Whether the variant will not come up the next time either; what was built of it is built again."""
    built_again = isinstance(error, EdgedError) and error.code is Code.DERIVED_UNUSABLE
    return not may_pass(error) and not built_again


def is_end(error: EdgedError | OSError) -> bool:
    """Whether there was a worker, which ended or had to be ended as it loaded; else the device could not start one."""
    return isinstance(error, EdgedError) and error.code in (Code.WORKER_CRASHED, Code.WORKER_HANG)


def is_short(error: EdgedError | OSError) -> bool:
    """Whether it was the device that had no room, in memory or on its disk, which says nothing of what was tried."""
    return isinstance(error, EdgedError) and error.code in _SHORT


def is_want(error: EdgedError | OSError) -> TypeGuard[EdgedError]:
    """Whether the device had nothing to run it in or on: it would not fit, or what it runs on is taken or away."""
    return isinstance(error, EdgedError) and error.code in _WANTS


def is_hang(error: EdgedError | OSError) -> bool:
    """Whether trying again would cost the whole time limit again, which another variant may do better without."""
    return isinstance(error, EdgedError) and error.code is Code.WORKER_HANG
