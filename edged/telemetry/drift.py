"""How far live results have drifted from those of the validation set: the population stability index. Pure.

PSI = Σ (a − e) · ln(a/e) over the bins, where e is the expected and a the actual share: Kullback and Leibler's
divergence made symmetric (Jeffreys 1946). The thresholds are the usual ones of credit scoring (Siddiqi, Credit Risk
Scorecards, 2006): below 0.1 nothing has changed to speak of, from 0.25 on the results are of another population.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec

from edged.bundle.manifest import Drift

SHIFTING = 0.1
SHIFTED = 0.25

LEAST_RESULTS = 100
"""Fewer say nothing: chance alone gives some (bins − 1)/results."""

# A bin that is empty on one side would make the index infinite: it counts as half a result.
_HALF = 0.5

_MOST_BINS = 20


class Verdict(StrEnum):
    """What an index says."""

    UNKNOWN = "unknown"
    STEADY = "steady"
    SHIFTING = "shifting"
    SHIFTED = "shifted"


class Bins(msgspec.Struct, frozen=True):
    """Where results are counted: by class where there are no `edges`, else in `edges[i-1] < value <= edges[i]`."""

    edges: tuple[float, ...]
    expected: tuple[float, ...]
    """The share of the reference in each bin; they add up to 1."""


def bins(drift: Drift) -> Bins:
    """The bins of what a manifest gives as `drift`.

    Class counts have a bin each. Quantiles have one between each two neighbours, of equal shares, and are thinned to at
    most 20; what lies beyond the first or last falls into the outermost.
    """
    if drift.kind == "classes":
        total = sum(drift.reference) or 1.0
        return Bins((), tuple(each / total for each in drift.reference))
    count = len(drift.reference) - 1
    kept = min(count, _MOST_BINS)
    places = [round(index * count / kept) for index in range(kept + 1)]
    shares = tuple((after - before) / count for before, after in pairwise(places))
    return Bins(tuple(drift.reference[place] for place in places[1:-1]), shares)


def index(expected: Sequence[float], counts: Sequence[int]) -> float:
    """The population stability index of `counts`, bin by bin. Raises ValueError where the bins are not the same."""
    total = sum(counts)
    if not total:
        return 0.0
    found = 0.0
    for share, count in zip(expected, counts, strict=True):
        wanted = max(share, _HALF / total)
        actual = max(count, _HALF) / total
        found += (actual - wanted) * math.log(actual / wanted)
    return found


def verdict(expected: Sequence[float], counts: Sequence[int]) -> Verdict:
    """What the results of a window say."""
    if sum(counts) < LEAST_RESULTS:
        return Verdict.UNKNOWN
    found = index(expected, counts)
    if found >= SHIFTED:
        return Verdict.SHIFTED
    return Verdict.SHIFTING if found >= SHIFTING else Verdict.STEADY
