"""The fitted model: it finds what a device is like, and follows what it cannot know."""

from __future__ import annotations

import math
import random

import pytest
from sim.device import PROFILES, Device

from edged.pressure import thermal
from edged.pressure.thermal import TAUS_S, Fit


def plant(
    gain_c: float, tau_s: float, seconds: int, seed: int = 1, noise_c: float = 0.3, drift_c_s: float = 0.0
) -> Fit:
    """Fits a first-order plant under a load that changes now and then."""
    chance = random.Random(seed)
    load, x = 0.0, 0.0
    fit = thermal.start(40.0, 0.0, 0.0)
    for second in range(1, seconds):
        if chance.random() < 1 / 30:
            load = chance.choice([0.0, 0.2, 0.5, 1.0])
        x += (load - x) * -math.expm1(-1 / tau_s)
        celsius = round(40 + gain_c * x + drift_c_s * second + chance.gauss(0, noise_c))
        fit = thermal.learn(fit, celsius, load, second)
    return fit


@pytest.mark.parametrize("tau_s", [4.0, 15.0, 60.0])
@pytest.mark.parametrize("gain_c", [10.0, 25.0, 60.0])
def test_it_finds_gain_and_time_constant(gain_c: float, tau_s: float):
    fit = plant(gain_c, tau_s, 1800)
    assert fit.gain_c == pytest.approx(gain_c, rel=0.15)
    assert abs(TAUS_S.index(fit.tau_s) - TAUS_S.index(tau_s)) <= 1


def test_a_room_that_warms_teaches_nothing_wrong():
    still, warming = plant(20.0, 8.0, 1800), plant(20.0, 8.0, 1800, drift_c_s=0.02)
    assert warming.gain_c == pytest.approx(still.gain_c, rel=0.05)
    assert warming.drift_c_s == pytest.approx(0.02, abs=0.02)


def test_a_steady_load_neither_teaches_nor_makes_it_forget():
    fit = plant(25.0, 8.0, 900)
    later = fit
    for second in range(1, 7200):
        later = thermal.learn(later, 60.0 + second % 2, 0.5, fit.at + second)
    assert later.gain_c == pytest.approx(fit.gain_c, rel=0.1)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_it_expects_what_comes(profile):
    """On devices with two masses, and not one: within 2 °C, 15 s ahead, while the load is what it is."""
    chance = random.Random(4)
    device = Device(profile, 25.0)
    fit = thermal.start(device.temperature_c, 0.0, 0.0)
    load, changed_at, errors, expected = 0.0, 0, [], {}
    for second in range(1, 1500):
        if chance.random() < 1 / 40:
            load, changed_at = chance.choice([0.0, 0.1, 0.3, 0.5]), second
        device.advance(1.0, load)
        fit = thermal.learn(fit, device.temperature_c, load, device.now)
        expected[second + 15] = fit.ahead(load, 15.0)
        if second > 600 and second - changed_at > 15:
            errors.append(abs(expected[second] - device.die_c))
    assert sorted(errors)[int(len(errors) * 0.9)] < 2.0


def test_the_largest_load_is_the_one_that_ends_at_the_wanted_temperature():
    fit = plant(30.0, 15.0, 1200, noise_c=0.0)
    load = fit.largest_load(60.0, 30.0)
    assert fit.ahead(load, 30.0) == pytest.approx(60.0)


def test_time_that_does_not_pass_teaches_nothing():
    fit = thermal.start(50.0, 0.5, 10.0)
    assert thermal.learn(fit, 90.0, 1.0, 10.0) == fit
    assert thermal.learn(fit, 90.0, 1.0, 5.0) == fit


def test_coasting_moves_the_filtered_load_alone():
    fit = plant(25.0, 8.0, 600)
    coasted = thermal.coast(fit, 1.0, fit.at + 1000)
    assert (coasted.gain_c, coasted.offset_c) == (fit.gain_c, fit.offset_c)
    assert all(each.x == pytest.approx(1.0, abs=0.01) for each in coasted.sums)
