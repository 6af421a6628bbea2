"""The governor's hot part: for each temperature, where it is going, and the load that holds it. Pure."""

from __future__ import annotations

import math

import msgspec

from edged.pressure import thermal, trust
from edged.pressure.levels import severity
from edged.pressure.policy import Policy, Thresholds, thresholds
from edged.pressure.readings import Temperature
from edged.types import Level

# Sensors are read in steps and with noise; this is smoothed away.
_SMOOTH_S = 4.0
# A loaded device never stops wholly: the first priority must get through.
LEAST_DUTY = 0.05
# With no temperature left to believe, after there were some.
BLIND_DUTY = 0.7
# A load so near the duty is held back by it.
_FELT = 0.95
# Heat that the model does not explain ends by computing less, whatever the model says.
_CAP = {Level.CRITICAL: 0.5, Level.EMERGENCY: LEAST_DUTY}


class Sensor(msgspec.Struct, frozen=True):
    """What is remembered of one temperature."""

    past: trust.Past
    fit: thermal.Fit
    smooth_c: float
    wanted: Level = Level.NOMINAL


class Judged(msgspec.Struct, frozen=True):
    """What one temperature asks for."""

    name: str
    wanted: Level
    duty: float
    text: str


def follow(known: Sensor | None, found: float, load: float, now: float, *, throttled: bool) -> Sensor:
    """Takes in one reading. While the kernel throttles, the load heats less than the model is to learn."""
    past = trust.judge(known.past if known else None, found, load, now)
    if known is None or known.past.doubt:
        return Sensor(past, thermal.start(found, load, now), found)
    if past.doubt:
        return msgspec.structs.replace(known, past=past)
    smooth_c = known.smooth_c + (found - known.smooth_c) * -math.expm1(-(now - known.past.at) / _SMOOTH_S)
    fit = thermal.coast(known.fit, load, now) if throttled else thermal.learn(known.fit, found, load, now)
    return Sensor(past, fit, smooth_c, known.wanted)


def judge(sensor: Sensor, reading: Temperature, policy: Policy) -> Judged:
    """What a trusted temperature asks for."""
    at = thresholds(reading.trips, policy)
    fit = sensor.fit
    duty = min(max(fit.largest_load(at.set_c, policy.horizon_s), LEAST_DUTY), 1.0)
    soon_c = fit.ahead(min(sensor.past.load, duty), policy.horizon_s)
    wanted = _level(sensor.smooth_c, soon_c, sensor.wanted, at, policy)
    if wanted is Level.NOMINAL and duty < 1.0 and sensor.past.load > duty * _FELT:
        wanted = Level.ELEVATED  # somebody would compute more and may not
    text = f"{reading.name} is at {sensor.smooth_c:.1f} °C, expected at {soon_c:.1f} °C in {policy.horizon_s:g} s"
    return Judged(
        reading.name, wanted, min(duty, _CAP.get(wanted, 1.0)), f"{text}; it is to stay below {at.set_c:g} °C"
    )


def _level(now_c: float, soon_c: float, held: Level, at: Thresholds, policy: Policy) -> Level:
    """Elevated and critical by where it is going, emergency by where it is."""
    worst_c = max(now_c, soon_c)
    found = Level.NOMINAL
    for level, celsius, enter_c in (
        (Level.ELEVATED, worst_c, at.set_c),
        (Level.CRITICAL, worst_c, at.critical_c),
        (Level.EMERGENCY, now_c, at.emergency_c),
    ):
        leave_c = enter_c - (policy.hysteresis_c if severity(held) >= severity(level) else 0.0)
        if celsius >= leave_c:
            found = level
    return found
