"""What `edgectl bench` makes of what it measured."""

from __future__ import annotations

import math

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from edged._pb.edged.v1 import admin_pb2 as pb
from edged.ctl.measured import Latencies, Measured, cpu


@given(st.lists(st.floats(1e-6, 100), min_size=1), st.floats(0.01, 1))
def test_quantiles_are_those_of_the_sorted_list_to_a_thousandth(values: list[float], share: float):
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    wanted = sorted(values)[max(math.ceil(share * len(values)), 1) - 1]
    assert latencies.quantile_s(share) == pytest.approx(wanted, rel=1e-3)
    assert latencies.quantile_s(1) == pytest.approx(max(values), rel=1e-3)


def test_nothing_has_no_quantile():
    assert Latencies().quantile_s(0.5) is None


def test_the_first_minute_stands_beside_the_last_whole_one():
    measured = Measured()
    for second in range(60 * 5 + 30):
        minute = second // 60
        measured.answered(second, 0.001 * (minute + 1))
        if minute in (2, 4):
            measured.failed(second, "overloaded")
        measured.heat(second, 40 + minute + second % 60 / 100)
    whole, first, last = measured.parts()
    assert (whole.part, first.part, last.part) == ("all", "minute 1", "minute 5")
    assert (whole.answered, first.answered, last.answered) == (330, 60, 60)
    assert (first.p50_ms, last.p50_ms) == (pytest.approx(1, rel=1e-3), pytest.approx(5, rel=1e-3))
    assert (whole.errors, first.errors, last.errors) == ({"overloaded": 120}, {}, {"overloaded": 60})
    assert (first.hottest_c, last.hottest_c, whole.hottest_c) == (40.59, 44.59, 45.29)
    assert (first.requests_per_s, last.requests_per_s) == (1, 1)


def test_less_than_two_minutes_are_one_part():
    measured = Measured()
    measured.answered(1, 0.1)
    measured.answered(119.9, 0.1)
    assert [part.part for part in measured.parts()] == ["all"]
    measured.lasted_s = 120
    assert [part.part for part in measured.parts()] == ["all", "minute 1", "minute 2"]


def test_a_last_minute_in_which_nothing_came_back_is_empty():
    measured = Measured()
    measured.answered(1, 0.1)
    measured.failed(250, "deadline_exceeded")
    last = measured.parts()[-1]
    assert (last.part, last.answered, last.p50_ms, last.longest_ms, last.hottest_c) == ("minute 4", 0, None, None, None)


def test_nothing_measured_is_told_as_that():
    [whole] = Measured().parts()
    assert (whole.answered, whole.requests_per_s, whole.p99_ms) == (0, 0, None)


def status(answered: int, front_s: float, workers: dict[int, float], pid: int = 1) -> pb.Status:
    return pb.Status(
        pid=pid,
        cpu_time=seconds(front_s),
        models=[pb.Model(name="digits", requests_ok=answered), pb.Model(name="other", requests_ok=answered * 7)],
        workers=[
            *(pb.Worker(model="digits", pid=each, cpu_time=seconds(used)) for each, used in workers.items()),
            pb.Worker(model="other", pid=99, cpu_time=seconds(1000 * front_s)),
        ],
    )


def seconds(value: float) -> Duration:
    found = Duration()
    found.FromNanoseconds(round(value * 1e9))
    return found


def test_processor_time_is_per_answer_and_of_the_models_own_workers():
    found = cpu(status(100, 1.0, {5: 2.0}), status(1100, 1.5, {5: 2.25, 6: 0.25}), "digits")
    assert found is not None
    assert (found.front_us, found.workers_us) == (500, 500)


def test_processor_time_is_unknown_where_nothing_was_answered_or_edged_began_anew():
    assert cpu(status(100, 1.0, {}), status(100, 1.5, {}), "digits") is None
    assert cpu(status(100, 1.0, {}), status(200, 1.5, {}, pid=2), "digits") is None
