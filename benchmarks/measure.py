"""Arithmetic on what was measured: percentiles, medians over rounds, ratios within rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one server: how many requests it answered, and what they cost."""

    answered: int
    failed: int = 0
    elapsed_s: float
    cpu_us: float
    """User and system time of the server's processes, for each answered request."""
    front_us: float = 0.0
    """That of the process that was started, which takes the requests."""
    switches: float = 0.0
    """Context switches of all threads of the server's processes, for each answered request."""
    p50_us: float = 0.0
    p90_us: float = 0.0
    p99_us: float = 0.0
    problem: str = ""
    """Why some requests failed, or none was answered."""

    @property
    def per_s(self) -> float:
        """Answered requests per second."""
        return self.answered / self.elapsed_s if self.elapsed_s else 0.0


class Spread(msgspec.Struct, frozen=True):
    """The median over rounds, and what lay lowest and highest."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values`, which are sorted, that at least `percent` of a hundred of them do not exceed."""
    if not values:
        return 0.0
    return values[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def spread(values: Sequence[float]) -> Spread | None:
    """None when there are no values."""
    return Spread(median(values), min(values), max(values)) if values else None


def ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Spread | None:
    """Our CPU time per request divided by theirs, round by round: what disturbs a machine disturbs a round of both."""
    pairs = zip(ours, theirs, strict=False)
    return spread([our.cpu_us / their.cpu_us for our, their in pairs if our.cpu_us and their.cpu_us])
