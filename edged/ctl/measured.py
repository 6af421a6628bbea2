"""What a bench measured: latencies, rates, errors, processor time. Pure."""

from __future__ import annotations

import math
from collections import Counter

import msgspec

from edged._pb.edged.v1 import admin_pb2 as pb

MINUTE_S = 60.0

# Latencies are kept to a thousandth of themselves, so that a run of any length takes little memory.
_PER_E = 1000


class Latencies:
    """How often something took how long."""

    def __init__(self) -> None:
        self.count = 0
        self.longest_s = 0.0
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Counts one."""
        self.count += 1
        self.longest_s = max(self.longest_s, seconds)
        self._counts[round(_PER_E * math.log(max(seconds, 1e-9)))] += 1

    def quantile_s(self, share: float) -> float | None:
        """The one at place ⌈share·n⌉ of n in order, the first being 1 (nearest rank); None where there is none."""
        rank = max(math.ceil(share * self.count), 1)
        for step in sorted(self._counts):
            rank -= self._counts[step]
            if rank <= 0:
                return min(math.exp(step / _PER_E), self.longest_s)
        return None


class Tally:
    """What came of the requests of some time."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.errors: Counter[str] = Counter()
        self.not_sent = 0
        self.hottest_c: float | None = None


class Measured:
    """What came of a run, as a whole and in its first and its latest whole minutes; times are since its beginning."""

    def __init__(self) -> None:
        self.whole = Tally()
        self.lasted_s = 0.0
        self._minutes: dict[int, Tally] = {}

    def answered(self, at_s: float, took_s: float) -> None:
        """A request was answered."""
        for tally in self._at(at_s):
            tally.latencies.add(took_s)

    def failed(self, at_s: float, code: str) -> None:
        """A request was not answered."""
        for tally in self._at(at_s):
            tally.errors[code] += 1

    def not_sent(self, at_s: float) -> None:
        """A request was due, and too many were under way."""
        for tally in self._at(at_s):
            tally.not_sent += 1

    def heat(self, at_s: float, celsius: float) -> None:
        """The hottest sensor says so."""
        for tally in self._at(at_s):
            tally.hottest_c = celsius if tally.hottest_c is None else max(tally.hottest_c, celsius)

    def _at(self, at_s: float) -> tuple[Tally, Tally]:
        self.lasted_s = max(self.lasted_s, at_s)
        minute = int(at_s // MINUTE_S)
        if minute not in self._minutes:
            self._minutes[minute] = Tally()
            for old in set(self._minutes) - {0, minute, minute - 1}:
                del self._minutes[old]
        return self.whole, self._minutes[minute]

    def parts(self) -> tuple[Part, ...]:
        """The whole run and, where it had two whole minutes, the first and the last of them."""
        found = [_part("all", self.whole, self.lasted_s)]
        last = int(self.lasted_s // MINUTE_S) - 1
        if last >= 1:
            minutes = (0, last)
            found += [_part(f"minute {each + 1}", self._minutes.get(each, Tally()), MINUTE_S) for each in minutes]
        return tuple(found)


class Part(msgspec.Struct, frozen=True):
    """A part of a run, as it is told; None: not known."""

    part: str
    seconds: float
    answered: int
    requests_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    longest_ms: float | None
    errors: dict[str, int]
    not_sent: int
    hottest_c: float | None


def _part(name: str, tally: Tally, seconds: float) -> Part:
    took = tally.latencies
    p50, p90, p99 = (None if found is None else found * 1e3 for found in map(took.quantile_s, (0.5, 0.9, 0.99)))
    return Part(
        part=name,
        seconds=seconds,
        answered=took.count,
        requests_per_s=took.count / seconds if seconds else 0.0,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        longest_ms=took.longest_s * 1e3 if took.count else None,
        errors=dict(tally.errors.most_common()),
        not_sent=tally.not_sent,
        hottest_c=tally.hottest_c,
    )


class Cpu(msgspec.Struct, frozen=True):
    """Processor time per answered request, in microseconds, whoever asked."""

    front_us: float
    workers_us: float


def cpu(before: pb.Status, after: pb.Status, model: str) -> Cpu | None:
    """What edged and the workers of `model` used for each request answered in between.

    None where edged was started anew meanwhile, or answered nothing.
    """
    answered = _answered(after, model) - _answered(before, model)
    if before.pid != after.pid or answered <= 0:
        return None
    earlier = {each.pid: each.cpu_time.ToNanoseconds() for each in before.workers}
    workers_ns = sum(
        each.cpu_time.ToNanoseconds() - earlier.get(each.pid, 0) for each in after.workers if each.model == model
    )
    front_ns = after.cpu_time.ToNanoseconds() - before.cpu_time.ToNanoseconds()
    return Cpu(front_ns / answered / 1e3, workers_ns / answered / 1e3)


def _answered(status: pb.Status, model: str) -> int:
    return sum(each.requests_ok for each in status.models if each.name == model)
