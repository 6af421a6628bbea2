"""The governor on simulated devices: the kernel never has to throttle, and the important callers notice nothing.

The sampled runs are short; benchmarks/thermal.py runs whole ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from sim.device import PROFILES, Device, Profile

from benchmarks.hotwork import MODELS, Model, Run
from benchmarks.thermal import most_at_full_clock, swing
from edged.pressure.governor import Governor
from edged.pressure.policy import Policy
from edged.types import Level

each_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def governed(profile: Profile, ambient_c: float) -> Run:
    return Run(Device(profile, ambient_c), Governor(Policy()))


def met(run: Run, priority: int) -> float:
    """The share of deadlines met, of those that have passed."""
    asked = [
        each
        for each in run.requests
        if each.model.priority == priority and each.came < run.device.now - each.model.deadline_s
    ]
    return sum(each.met for each in asked) / len(asked)


@each_profile
def test_at_full_load_the_kernel_need_not_throttle(profile: Profile):
    run = governed(profile, 40.0)
    run.advance(900)
    without = Run(Device(profile, 40.0), None)
    without.advance(900)
    assert without.device.throttled_s > 0.2 * 900, "the device is hot enough to show it"
    assert run.device.throttled_s < 0.01 * 900
    assert met(run, 1) >= 0.995


@each_profile
def test_the_priorities_hold_under_heat(profile: Profile):
    run = governed(profile, 40.0)
    run.advance(900)
    assert met(run, 1) >= 0.995 > met(run, MODELS[1].priority)


@each_profile
def test_the_kernel_need_not_throttle_either_where_all_that_comes_is_of_the_first_priority(profile: Profile):
    greedy = Model("greedy", priority=1, work_s=0.02, share=2.0, deadline_s=1.0, queue=16)
    run = Run(Device(profile, 40.0), Governor(Policy()), (greedy,))
    run.advance(900)
    assert run.device.throttled_s < 0.01 * 900


@each_profile
def test_between_steps_it_stays_at_the_set_point(profile: Profile):
    run = governed(profile, 40.0)
    run.advance(1200)
    late = [sample.temperature_c for sample in run.samples if sample.at > 900]
    set_c = profile.trip_c - Policy().margin_c
    assert abs(sum(late) / len(late) - set_c) < 1.0
    levels = [sample.level for sample in run.samples]
    assert sum(one is not other for one, other in itertools.pairwise(levels)) <= 3


@each_profile
@pytest.mark.parametrize("fault", ["fan", "ambient"])
def test_a_fan_that_fails_and_a_room_that_heats_are_followed(profile: Profile, fault: str):
    run = governed(profile, 28.0)
    run.advance(300)
    if fault == "fan":
        run.device.fail_fan()
    else:
        run.device.set_ambient(48.0)
    run.advance(900)
    assert run.device.throttled_s < 0.01 * 900
    assert met(run, 1) >= 0.995


def test_a_neighbour_that_heats_is_made_room_for_and_what_was_given_up_comes_back():
    run = governed(PROFILES["gateway"], 28.0)
    run.advance(300)
    run.device.heat_beside(3.5)
    run.advance(900)
    assert run.limits.duty < 0.7
    assert run.device.throttled_s < 0.01 * 900
    run.device.heat_beside(0.0)
    run.device.set_ambient(0.0)
    run.advance(2400)
    assert run.limits.duty == 1.0
    assert run.level is Level.NOMINAL


@each_profile
def test_it_does_nearly_all_the_work_that_the_set_point_allows(profile: Profile):
    seconds = 900.0
    run = governed(profile, 40.0)
    run.advance(seconds)
    at_set_point = dataclasses.replace(profile, trip_c=profile.trip_c - Policy().margin_c)
    worked_s = sum(each.worked_s for each in run.requests if each.answered is not None)
    assert worked_s >= 0.97 * most_at_full_clock(at_set_point, seconds, 40.0)


@each_profile
def test_the_bound_at_full_clock_ends_each_step_at_the_temperature(profile: Profile):
    device = Device(dataclasses.replace(profile, trip_c=math.inf), 40.0)
    for _ in range(4 * 600):
        device.advance(0.25, device.busy_to_reach(profile.trip_c, 0.25))
        assert device.die_c <= profile.trip_c + 1e-6
    assert device.die_c == pytest.approx(profile.trip_c)


@each_profile
def test_throughput_swings_far_less_than_without(profile: Profile):
    run, without = governed(profile, 40.0), Run(Device(profile, 40.0), None)
    for each in (run, without):
        each.advance(900)
    assert swing(run, 900, 1.0) <= swing(without, 900, 1.0) / 2  # in half an hour a third: that is the benchmark's
