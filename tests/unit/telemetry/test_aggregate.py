"""Windows: what is folded in comes out, merging is associative and exact, quantiles keep their bound for a year."""

from __future__ import annotations

import functools
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.telemetry import WINDOWS, window_of

from edged.facts import Executed, LevelEntered, Reading, Unanswered, WorkerRestarted
from edged.telemetry.aggregate import MAX_READINGS, MAX_VARIANTS, Aggregate
from edged.telemetry.sketch import RELATIVE_ACCURACY, Sketch, Tally
from edged.telemetry.window import ModelWindow, Totals, Window, merge
from edged.types import Level


@given(WINDOWS, WINDOWS, WINDOWS)
def test_merging_is_associative(one, two, three):
    assert one.merged(two).merged(three) == one.merged(two.merged(three))


@given(st.lists(WINDOWS, min_size=1, max_size=5))
def test_merged_counts_are_the_sums(found):
    merged = merge(found)
    assert merged.span_ms == sum(window.span_ms for window in found)
    assert merged.worker_restarts == sum(window.worker_restarts for window in found)
    for field in ("rows", "batches"):
        assert _sum([merged], field) == _sum(found, field)
    for code in ("ok", "overloaded", "cancelled"):
        assert _code([merged], code) == _code(found, code)
    for sketch in ("queue", "compute"):
        assert sum(getattr(each, sketch).count for each in merged.models) == sum(
            getattr(each, sketch).count for window in found for each in window.models
        )


@given(st.lists(WINDOWS, min_size=1, max_size=6), st.randoms())
def test_totals_do_not_depend_on_which_neighbours_were_merged_before(found, chance):
    coarse = list(found)
    while len(coarse) > 1 and chance.random() < 0.7:
        place = chance.randrange(len(coarse) - 1)
        coarse[place : place + 2] = [coarse[place].merged(coarse[place + 1])]
    assert functools.reduce(Totals.with_window, coarse, Totals()) == functools.reduce(
        Totals.with_window, found, Totals()
    )


@given(WINDOWS)
def test_a_window_survives_its_way_as_json(window):
    assert msgspec.json.decode(msgspec.json.encode(window), type=Window) == window


def _sum(found: list[Window], field: str) -> int:
    return sum(getattr(each, field) for window in found for each in window.models)


def _code(found: list[Window], code: str) -> int:
    return sum(each.codes.get(code, 0) for window in found for each in window.models)


def executed(model: str = "digits", rows: int = 1, queue_s: tuple[float, ...] = (0.001,), **others) -> Executed:
    return Executed(
        model, others.get("revision", 1), "fp32", rows, queue_s, others.get("compute_s", 0.002), others.get("at_ms", 7)
    )


def test_what_is_told_of_a_model_comes_out():
    window = window_of(
        [
            executed(rows=3, queue_s=(0.001, 0.002), at_ms=5),
            executed(rows=8, queue_s=(0.003,), at_ms=9),
            Unanswered("digits", 1, "fp32", "overloaded"),
        ]
    )
    (found,) = window.models
    assert found.key == ("digits", 1, "fp32")
    assert (found.codes, found.rows, found.batches) == ({"ok": 3, "overloaded": 1}, 11, 2)
    assert found.batch_rows == {"4": 1, "8": 1}
    assert (found.queue.count, found.queue.sum_us, found.queue.max_us) == (3, 6000, 3000)
    assert (found.compute.count, found.compute.sum_us) == (3, 6000), "each request took as long as its batch"
    assert found.last_success_ms == 9


def test_time_at_each_level_adds_up_to_the_window():
    window = window_of([LevelEntered(Level.CRITICAL, 100.0), LevelEntered(Level.ELEVATED, 250.0)])
    assert window.levels_ms == {"nominal": 100_000, "critical": 150_000, "elevated": 50_000}


def test_the_level_lasts_into_the_next_window():
    aggregate = Aggregate(0.0, 0)
    aggregate.add(LevelEntered(Level.CRITICAL, 299.0))
    aggregate.close(300.0, 300_000, clock_synchronized=True)
    assert aggregate.close(600.0, 600_000, clock_synchronized=True).levels_ms == {"critical": 300_000}


def test_readings_keep_their_extremes_and_the_last():
    window = window_of([Reading("temperature_c", each) for each in (40, 71, 55)])
    gauge = window.readings["temperature_c"]
    assert (gauge.count, gauge.sum, gauge.min, gauge.max, gauge.last) == (3, 166, 40, 71, 55)


def test_a_closed_window_leaves_nothing_in_the_next():
    aggregate = Aggregate(0.0, 0)
    aggregate.add(executed())
    aggregate.add(WorkerRestarted("digits"))
    first = aggregate.close(300.0, 300_000, clock_synchronized=True)
    empty = aggregate.close(300.0, 300_000, clock_synchronized=True)
    assert first.models
    assert first.worker_restarts == 1
    assert empty == Window(span_ms=0, began_ms=300_000, clock_synchronized=True)


def test_a_window_stays_small_whatever_it_is_told():
    many = [executed(model=f"m{number}") for number in range(MAX_VARIANTS + 50)]
    window = window_of([*many, *(Reading(f"made_up:{number}", 1) for number in range(MAX_READINGS + 50))])
    assert len(window.models) == MAX_VARIANTS + 1
    assert _code([window], "ok") == len(many), "what goes beyond is still counted"
    assert len(window.readings) == MAX_READINGS


class TestSketches:
    @given(st.lists(st.floats(1e-6, 86_400), min_size=1, max_size=200), st.floats(0, 1))
    def test_keep_every_quantile_within_their_accuracy(self, values, quantile):
        tally = Tally()
        for value in values:
            tally.add(value)
        found = tally.sketch().quantile_s(quantile)
        exact = sorted(values)[int(quantile * (len(values) - 1))]
        assert found == pytest.approx(exact, rel=RELATIVE_ACCURACY * 1.001)

    def test_know_nothing_when_empty(self):
        assert Sketch().quantile_s(0.99) is None

    def test_count_what_is_as_good_as_nothing(self):
        tally = Tally()
        tally.add(0.0, 3)
        assert (tally.sketch().count, tally.sketch().quantile_s(0.5)) == (3, 0.0)

    def test_have_a_bound_however_wild_the_durations(self):
        tally = Tally()
        for exponent in range(-400, 400):
            tally.add(1.1**exponent)
        assert len(tally.sketch().keys) < 1300


def test_p99_of_a_year_merged_by_the_hour_is_that_of_the_raw_data_within_the_bound():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    numbers = np.random.default_rng(seed)
    raw, year = [], Window(span_ms=0, began_ms=0)
    for hour in range(365 * 24):
        load = 1 + 0.5 * np.sin(2 * np.pi * hour / 24)
        values = np.exp(numbers.normal(-6 + load, 0.7, 20))
        raw.append(values)
        tally = Tally()
        for value in values.tolist():
            tally.add(value)
        model = ModelWindow("digits", 1, "fp32", codes={"ok": len(values)}, compute=tally.sketch())
        year = year.merged(Window(span_ms=3_600_000, began_ms=0, models=[model]))
    (found,) = year.models
    everything = np.concatenate(raw)
    assert found.codes == {"ok": len(everything)}
    for quantile in (0.5, 0.9, 0.99, 0.999):
        exact = float(np.quantile(everything, quantile, method="lower"))
        assert found.compute.quantile_s(quantile) == pytest.approx(exact, rel=RELATIVE_ACCURACY * 1.001)
