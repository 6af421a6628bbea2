"""What saturation is judged by: the same batches, and CPU time beyond onnxruntime's."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import saturation
from benchmarks.programs.engine import mixed
from benchmarks.saturation import MODELS, SENT, SHARED, Round


@given(st.dictionaries(st.integers(1, 64), st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 3))
def test_batches_are_run_in_the_proportion_in_which_they_were_made(made, times):
    found = Counter(itertools.islice(mixed(made), times * sum(made.values())))
    assert found == {rows: times * count for rows, count in made.items()}


def test_each_size_lies_evenly_between_the_others():
    assert list(itertools.islice(mixed({8: 2, 1: 4}), 6)) == [1, 8, 1, 1, 8, 1]


def measured(model, way, *percents):
    return [Round(model, way, 10_000 + 100 * each, 500, 10_000, 10_200, {1: 2, 4: 1}) for each in percents]


def test_each_model_and_way_is_judged_by_the_median_of_its_rounds():
    quick, patient = MODELS
    rounds = [*measured(quick, SENT, 1, 9, 4), *measured(quick, SHARED, 2, 1, 1)]
    rounds += [*measured(patient, SENT, 2), *measured(patient, SHARED, 5)]
    found = saturation.judge(rounds)
    sent, sent_least, shared, shared_least = found[:4]
    assert (sent.measured, shared.measured) == (pytest.approx(4), pytest.approx(1))
    assert (sent_least.measured, shared_least.measured) == (pytest.approx(200 / 102), pytest.approx(-100 / 102))
    assert [each.holds for each in found] == [False, True, True, True, True, True, False, True]
    assert sent.note == "1.0 to 9.0; µs a row: engine 10000, front 500; 2.0 rows a batch"
    assert sent_least.note.endswith("which itself takes 2.0 % beyond onnxruntime")
