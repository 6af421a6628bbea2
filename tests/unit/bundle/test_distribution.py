"""The bins of a reference distribution: they cover every result, hold the reference's shares, and are few."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.bundle.distribution import MOST_CLASS_BINS, MOST_QUANTILE_BINS, bins
from edged.bundle.manifest import Drift


def test_classes_have_a_bin_each():
    found = bins(Drift(output="scores", kind="classes", reference=(30, 10, 0)))
    assert found.edges == found.of_class == ()
    assert found.expected == pytest.approx((0.75, 0.25, 0))


@given(st.integers(MOST_CLASS_BINS + 1, 2000), st.randoms())
def test_the_rarest_of_many_classes_share_a_bin(count, chance):
    reference = [float(chance.randrange(1000)) for _ in range(count)]
    found = bins(Drift(output="scores", kind="classes", reference=tuple(reference)))
    assert len(found.expected) == MOST_CLASS_BINS
    assert sum(found.expected) == pytest.approx(1)
    assert len(found.of_class) == count
    shared = [each for each, place in enumerate(found.of_class) if place == MOST_CLASS_BINS - 1]
    alone = [each for each in range(count) if each not in set(shared)]
    assert sorted(found.of_class[each] for each in alone) == list(range(MOST_CLASS_BINS - 1))
    assert min(reference[each] for each in alone) >= max(reference[each] for each in shared)


@pytest.mark.parametrize("quantiles", [2, 3, 11, 21, 22, 101, 10_000])
def test_quantiles_make_bins_whose_shares_add_up(quantiles):
    found = bins(Drift(output="y", kind="value", reference=tuple(range(quantiles))))
    assert len(found.expected) == len(found.edges) + 1 <= MOST_QUANTILE_BINS
    assert sum(found.expected) == pytest.approx(1)
    assert list(found.edges) == sorted(found.edges)


def test_the_reference_itself_falls_into_its_bins_as_expected():
    chance = random.Random(3)
    drawn = sorted(chance.gauss(0, 1) for _ in range(10_001))
    found = bins(Drift(output="y", kind="value", reference=tuple(drawn[::100])))
    counts = [0] * len(found.expected)
    for value in drawn:
        counts[sum(edge < value for edge in found.edges)] += 1
    assert [each / len(drawn) for each in counts] == pytest.approx(list(found.expected), abs=0.002)
