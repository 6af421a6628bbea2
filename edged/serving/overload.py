"""What is turned away when more comes than can be answered. Pure.

A queue is full when it holds its requests or its bytes, or when what waits is worth more than `delay_s` of work: what
is taken in then is answered about as fast at twice the load that can be carried as just below it. A full queue makes
room for a request by turning away the newest of those of lower priority.
"""

from __future__ import annotations

import msgspec

from edged.serving.forecast import Forecast
from edged.serving.waiting import Pending, Waiting

# So many callers that each wait for their answer are no overload, however long one answer takes; this counts what is
# being executed too.
UNHURRIED_REQUESTS = 16


class Bounds(msgspec.Struct, frozen=True):
    """What may wait for one model at most."""

    requests: int
    size_bytes: int
    delay_s: float = float("inf")


class Executing(msgspec.Struct, frozen=True):
    """What a worker has."""

    requests: int = 0
    left_s: float = 0.0
    """How long it will still take."""
    share: float = 1.0
    """The share of time that may be spent computing."""


def make_room(waiting: Waiting, bounds: Bounds, level: int, size: int) -> list[Pending] | None:
    """Takes out whom to turn away, so that a request fits; None, and nobody, when that would not do.

    A request larger than all that may wait is taken when nothing waits.
    """
    count, held = waiting.count, waiting.size
    shed: list[Pending] = []
    candidates = waiting.below(level)
    while count >= bounds.requests or (count and held + size > bounds.size_bytes):
        worst = next(candidates, None)
        if worst is None:
            return None
        shed.append(worst)
        count, held = count - 1, held - worst.size
    for pending in shed:
        waiting.remove(pending)
    return shed


def too_long(
    before: tuple[int, int], executing: Executing, forecast: Forecast, max_rows: int, bounds: Bounds, left_s: float
) -> str:
    """Why a new request would wait too long: until its deadline, or longer than the bound; empty where it would not.

    `before`: the requests that go before it, and their rows. `left_s`: until its deadline. Where nothing goes before
    it, nothing is too long: what is measured then mends a forecast that was wrong.
    """
    count, rows = before
    if not count:
        return ""
    wait_s = (executing.left_s + forecast.wait_s(rows, max_rows)) / executing.share
    if wait_s >= left_s:
        return f"would begin with this request in about {wait_s:.3g} s, and it has {left_s:.3g} s until its deadline"
    if count + executing.requests >= UNHURRIED_REQUESTS and wait_s > bounds.delay_s:
        return f"has {count} requests waiting, worth {wait_s:.3g} s of work; at most {bounds.delay_s:g} s may wait"
    return ""
