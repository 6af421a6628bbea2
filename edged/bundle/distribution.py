"""The bins in which live results are counted, made from the distribution that a manifest gives as `drift`. Pure."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from edged.bundle.manifest import Drift

MOST_QUANTILE_BINS = 20
MOST_CLASS_BINS = 64
"""A window holds the bins of each output: the rarest of more classes share the last bin."""


class Bins(msgspec.Struct, frozen=True):
    """Where results are counted: by class where there are no `edges`, else in `edges[i-1] < value <= edges[i]`."""

    edges: tuple[float, ...]
    expected: tuple[float, ...]
    """The share of the reference in each bin; they add up to 1."""
    of_class: tuple[int, ...] = ()
    """The bin of each class; empty: each has its own."""


def bins(drift: Drift) -> Bins:
    """The bins of what a manifest gives as `drift`.

    Class counts have a bin each, up to 64: of more, the 63 most frequent have. Quantiles have one between each two
    neighbours, of equal shares, and are thinned to at most 20; what lies beyond the first or last falls into the
    outermost.
    """
    if drift.kind == "classes":
        return _of_classes(drift.reference)
    count = len(drift.reference) - 1
    kept = min(count, MOST_QUANTILE_BINS)
    places = [round(index * count / kept) for index in range(kept + 1)]
    shares = tuple((after - before) / count for before, after in pairwise(places))
    return Bins(tuple(drift.reference[place] for place in places[1:-1]), shares)


def _of_classes(reference: tuple[float, ...]) -> Bins:
    total = sum(reference) or 1.0
    if len(reference) <= MOST_CLASS_BINS:
        return Bins((), tuple(each / total for each in reference))
    last = MOST_CLASS_BINS - 1
    frequent = sorted(sorted(range(len(reference)), key=lambda each: -reference[each])[:last])
    place = {each: number for number, each in enumerate(frequent)}
    shares = [reference[each] / total for each in frequent]
    return Bins(
        (), (*shares, max(1 - sum(shares), 0.0)), tuple(place.get(each, last) for each in range(len(reference)))
    )
