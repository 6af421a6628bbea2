"""Drift: none where results are as expected, found where they are of another population."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.telemetry.drift import LEAST_RESULTS, Verdict, index, verdict

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(any)


def shares(found: list[int]) -> list[float]:
    return [each / sum(found) for each in found]


@given(counts)
def test_what_is_as_expected_has_no_drift(found):
    assert index(shares(found), found) == pytest.approx(0, abs=1e-2 * len(found))


@given(counts, st.randoms())
def test_it_is_never_negative_and_the_same_both_ways(found, chance):
    other = [each + 1 for each in found]
    chance.shuffle(other)
    some = [each + 1 for each in found]
    assert index(shares(some), other) >= -1e-12
    there = index(shares(some), [each * sum(some) for each in other])
    back = index(shares(other), [each * sum(other) for each in some])
    assert there == pytest.approx(back, abs=1e-9)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1] * 10, Verdict.STEADY), ([3] + [1] * 9, Verdict.SHIFTING), ([9] + [1] * 9, Verdict.SHIFTED)],
    ids=["as ever", "somewhat other", "another population"],
)
def test_a_population_is_told_from_another(weights, expected):
    chance = random.Random(1)
    drawn = chance.choices(range(10), weights, k=20_000)
    found = [drawn.count(each) for each in range(10)]
    assert verdict([0.1] * 10, found) is expected


def test_a_few_results_say_nothing():
    assert verdict([0.5, 0.5], [LEAST_RESULTS - 1, 0]) is Verdict.UNKNOWN
    assert verdict([0.5, 0.5], [LEAST_RESULTS, 0]) is Verdict.SHIFTED


def test_a_reference_of_other_bins_is_refused():
    with pytest.raises(ValueError, match="zip"):
        index([0.5, 0.5], [1, 2, 3])
