"""Drift: none where results are as expected, found where they are of another population."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.events import EventLog
from edged.facts import OutputCounts
from edged.telemetry.aggregate import Aggregate
from edged.telemetry.drift import LEAST_RESULTS, Verdict, index, least_results, verdict
from edged.telemetry.drift_watch import DriftWatch

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


def told_after(
    windows: int, results: int, weights: list[int], expected: list[float], chance: random.Random
) -> list[str]:
    """The verdicts that became events while so many windows of so many results, drawn by `weights`, were judged."""
    events = EventLog(windows)
    watch = DriftWatch(events)
    for _ in range(windows):
        drawn = chance.choices(range(len(weights)), weights, k=results)
        counts = tuple(drawn.count(each) for each in range(len(weights)))
        aggregate = Aggregate(0.0, 0)
        aggregate.add(OutputCounts("digits", 1, "fp32", "y", "value", tuple(expected), counts))
        watch.judge(aggregate.close(300.0, 300_000, clock_synchronized=True))
    return [event.message for event in events.after(0)]


@pytest.mark.parametrize("results", [7, 100, 150, 1000])
@pytest.mark.parametrize("bins", [2, 20, 64])
def test_what_has_not_drifted_is_hardly_ever_told_to_have(bins, results):
    told = told_after(288, results, [1] * bins, [1 / bins] * bins, random.Random(bins * results))
    assert len(told) <= 2, "one that comes by chance, and its end"


def test_the_results_of_a_quiet_model_are_judged_together():
    bins = 20
    windows = int(least_results(bins) / 7) + 1
    weights, expected = [9] + [1] * (bins - 1), [1 / bins] * bins
    assert told_after(windows - 1, 7, weights, expected, random.Random(1)) == []
    (told,) = told_after(windows, 7, weights, expected, random.Random(1))
    assert "shifted against the reference" in told
