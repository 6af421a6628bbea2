"""How far live results have drifted from those of the validation set: the population stability index. Pure.

PSI = Σ (a − e) · ln(a/e) over the bins, where e is the expected and a the actual share: Kullback and Leibler's
divergence made symmetric (Jeffreys 1946). The thresholds are the usual ones of credit scoring (Siddiqi, Credit Risk
Scorecards, 2006): below 0.1 nothing has changed to speak of, from 0.25 on the results are of another population.
The bins are those of `bundle.distribution`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

SHIFTING = 0.1
SHIFTED = 0.25

LEAST_RESULTS = 100
"""Fewer say nothing, however few the bins."""

# By chance alone an index of n results is distributed as chi-squared with (bins − 1) degrees of freedom, over n: so
# many standard deviations above its mean must still be steady.
_DEVIATIONS = 4

# A bin that is empty on one side would make the index infinite: it counts as half a result.
_HALF = 0.5


class Verdict(StrEnum):
    """What an index says."""

    UNKNOWN = "unknown"
    STEADY = "steady"
    SHIFTING = "shifting"
    SHIFTED = "shifted"


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


def least_results(bins: int) -> float:
    """How many results of so many bins say something: what chance alone gives stays below SHIFTING then."""
    free = max(bins - 1, 1)
    return max(LEAST_RESULTS, (free + _DEVIATIONS * math.sqrt(2 * free)) / SHIFTING)


def verdict(expected: Sequence[float], counts: Sequence[int]) -> Verdict:
    """What so many results say."""
    if sum(counts) < least_results(len(expected)):
        return Verdict.UNKNOWN
    found = index(expected, counts)
    if found >= SHIFTED:
        return Verdict.SHIFTED
    return Verdict.SHIFTING if found >= SHIFTING else Verdict.STEADY
