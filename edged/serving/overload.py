"""What is turned away when more comes than can be answered. Pure.

A queue is full when it holds its requests or its bytes, or when what waits is worth more than `delay_s` of work: what
is taken in then is answered about as fast at twice the load that can be carried as just below it. A full queue makes
room for a request by turning away the newest of those of lower priority.
"""

from __future__ import annotations

import msgspec

from edged.serving.waiting import Pending, Waiting

# So many callers that each wait for their answer are no overload, however long one answer takes; this counts what is
# being executed too.
UNHURRIED_REQUESTS = 16

# Once somebody had to be turned away, a sixth of the bound may wait, whoever it is, for so long: to try the whole bound
# again lets UNHURRIED_REQUESTS wait long, which is to befall less than a hundredth even of what a slow model answers.
FLAT_PART = 6
FLAT_S = 30.0


class Bounds(msgspec.Struct, frozen=True):
    """What may wait for one model at most."""

    requests: int
    size_bytes: int
    delay_s: float = float("inf")


class Ahead(msgspec.Struct, frozen=True):
    """What goes before a new request."""

    requests: int
    """Those that wait."""
    executing: int
    """Those that a worker has."""
    wait_s: float
    """How long all of them will take."""


def make_room(
    waiting: Waiting, bounds: Bounds, level: int, size: int, leaving: Pending | None = None
) -> list[Pending] | None:
    """Takes out whom to turn away, so that a request fits; None, and nobody, when that would not do.

    A request larger than all that may wait is taken when nothing waits. `leaving` is turned away in any case, and makes
    room already.
    """
    count, held = waiting.count, waiting.size
    if leaving is not None:
        count, held = count - 1, held - leaving.size
    shed: list[Pending] = []
    candidates = (each for each in waiting.below(level) if each is not leaving)
    while count >= bounds.requests or (count and held + size > bounds.size_bytes):
        worst = next(candidates, None)
        if worst is None:
            return None
        shed.append(worst)
        count, held = count - 1, held - worst.size
    for pending in shed:
        waiting.remove(pending)
    return shed


class Patience:
    """How long what is taken in may wait for one model: less for a while once it had to turn somebody away.

    The first that are too many cannot be told from callers that each wait for their answer. After them what comes is
    answered about as fast as below the limit. A better priority than that of whom was turned away is not held to it.
    """

    def __init__(self) -> None:
        self._flat_until: dict[int, float] = {}
        """By priority, on the caller's clock."""

    def too_long(self, level: int, now: float, ahead: Ahead, bounds: Bounds, left_s: float) -> str:
        """Why a new request would wait too long: until its deadline, or longer than the bound; empty where not.

        `left_s`: until its deadline. Where nothing goes before it, nothing is too long: what is measured then mends a
        forecast that was wrong.
        """
        count, wait_s = ahead.requests, ahead.wait_s
        if not count:
            return ""
        if wait_s >= left_s:
            return (
                f"would begin with this request in about {wait_s:.3g} s, and it has {left_s:.3g} s until its deadline"
            )
        flat = any(until > now and level >= other for other, until in self._flat_until.items())
        most_s = bounds.delay_s / FLAT_PART if flat else bounds.delay_s
        if wait_s <= most_s or (not flat and count + ahead.executing < UNHURRIED_REQUESTS):
            return ""
        if not flat:
            self._flat_until[level] = now + FLAT_S
        return f"has {count} requests waiting, worth {wait_s:.3g} s of work; at most {most_s:g} s may wait"
