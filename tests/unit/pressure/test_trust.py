"""Sensors that lie are recognized, those that tell the truth are not."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from edged.pressure.trust import Past, judge


def follow(readings: Iterable[tuple[float, float]], every_s: float = 1.0) -> list[Past]:
    """`readings`: temperature and load, one after the other."""
    found: list[Past] = []
    for number, (celsius, load) in enumerate(readings):
        found.append(judge(found[-1] if found else None, celsius, load, number * every_s))
    return found


@pytest.mark.parametrize("celsius", [-89.0, -273.0, 0.0, 255.0, 1000.0])
def test_what_cannot_be(celsius: float):
    assert follow([(celsius, 0.5)])[-1].doubt
    assert [bool(each.doubt) for each in follow([(50.0, 0.5), (celsius, 0.5)])] == [False, True]


@pytest.mark.parametrize("celsius", [-35.0, 0.5, 20.0, 110.0])
def test_what_can_be(celsius: float):
    assert not follow([(celsius, 0.5)])[-1].doubt


def test_a_jump_of_60_degrees_is_doubted_until_it_has_lasted():
    jumped = follow([(40.0, 1.0)] * 5 + [(100.0 + number % 2, 1.0) for number in range(60)])
    doubted = [bool(each.doubt) for each in jumped]
    assert doubted[:5] == [False] * 5
    assert all(doubted[5:30])
    assert not any(doubted[36:])


def test_after_a_long_gap_any_temperature_may_be_true():
    assert not follow([(20.0, 0.0), (85.0, 1.0)], every_s=60)[-1].doubt


def test_a_constant_is_doubted_once_the_load_has_changed_and_not_before():
    idle = follow([(55.0, 0.0)] * 1000)
    assert not idle[-1].doubt
    steps = [(55.0, float(number // 120 % 2)) for number in range(1000)]
    assert "exactly 55" in follow(steps)[-1].doubt
    assert not follow([*steps, (55.5, 1.0)])[-1].doubt, "it moves: it is believed again"


def test_a_governed_device_that_stays_at_its_set_point_is_believed():
    """Its temperature is constant since its load is."""
    noise = random.Random(5)
    readings = [(82.0, 0.45 + noise.uniform(-0.2, 0.2)) for _ in range(3600)]
    assert not any(each.doubt for each in follow(readings))


def test_after_what_cannot_be_the_next_reading_is_believed_at_once():
    assert [bool(each.doubt) for each in follow([(45.0, 0.5), (-89.0, 0.5), (45.0, 0.5)])] == [False, True, False]
