"""Durations as a DDSketch: any quantile within 1 %, whatever was merged with whatever, in any order.

Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with relative-error guarantees, VLDB 2019,
https://www.vldb.org/pvldb/vol12/p2195-masson.pdf. The mapping of values to bins and the ranks are those of the package
`ddsketch`; its bins are kept sparse and as whole numbers here, so that merging is exact.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import msgspec
from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore

RELATIVE_ACCURACY = 0.01

_MAPPING = LogarithmicMapping(RELATIVE_ACCURACY)

# Below a microsecond it is as good as nothing; above a day it is a day. So a sketch has at most some 1300 bins.
_LEAST_S = 1e-6
_MOST_S = 86_400.0


class Sketch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The durations of a window. Whole numbers only: merging them is associative and exact."""

    keys: tuple[int, ...] = ()
    """The bins that hold anything: the first as it is, each further one as its distance from the one before."""
    counts: tuple[int, ...] = ()
    """What each of them holds."""
    zero: int = 0
    """Durations below a microsecond."""
    sum_us: int = 0
    max_us: int = 0

    @property
    def count(self) -> int:
        """How many durations there were."""
        return self.zero + sum(self.counts)

    def bins(self) -> dict[int, int]:
        """Counts by bin."""
        return dict(zip(accumulate(self.keys), self.counts, strict=True))

    def quantile_s(self, quantile: float) -> float | None:
        """The duration below which `quantile` (0 to 1) of all lie, within 1 %; None where there was none."""
        store = DenseStore()
        for key, count in self.bins().items():
            store.add(key, count)
        found = BaseDDSketch(_MAPPING, store, DenseStore(), self.zero).get_quantile_value(quantile)
        return None if found is None else float(found)

    def merged(self, other: Sketch) -> Sketch:
        """Both together."""
        tally = Tally(self)
        for key, count in other.bins().items():
            tally.bins[key] = tally.bins.get(key, 0) + count
        tally.zero += other.zero
        tally.sum_us += other.sum_us
        tally.max_us = max(tally.max_us, other.max_us)
        return tally.sketch()


class Tally:
    """A sketch that is still being added to."""

    def __init__(self, start: Sketch | None = None) -> None:
        start = start or Sketch()
        self.bins = start.bins()
        self.zero = start.zero
        self.sum_us = start.sum_us
        self.max_us = start.max_us

    def add(self, duration_s: float, count: int = 1) -> None:
        """So many durations of so long."""
        duration_s = min(duration_s, _MOST_S)
        if duration_s < _LEAST_S:
            self.zero += count
            return
        key = _MAPPING.key(duration_s)
        self.bins[key] = self.bins.get(key, 0) + count
        us = round(duration_s * 1e6)
        self.sum_us += us * count
        self.max_us = max(self.max_us, us)

    def sketch(self) -> Sketch:
        """What was added so far."""
        keys = sorted(self.bins)
        steps = (*keys[:1], *(after - before for before, after in pairwise(keys)))
        return Sketch(steps, tuple(self.bins[key] for key in keys), self.zero, self.sum_us, self.max_us)
