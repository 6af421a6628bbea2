"""The governor's hot part: for each temperature, where it is going, and the load that holds it. Pure."""

from __future__ import annotations

import math

import msgspec

from edged.pressure import thermal, trust
from edged.pressure.levels import severity
from edged.pressure.policy import Policy, Thresholds, thresholds
from edged.pressure.readings import Temperature
from edged.types import Level

# Sensors are read in steps and noise: level and slope are smoothed over these.
_LEVEL_S, _SLOPE_S = 4.0, 20.0
# A loaded device never stops wholly: the first priority must get through.
LEAST_DUTY = 0.05
# With no temperature left to believe, after there were some.
BLIND_DUTY = 0.7
# Until the model is fitted: what a level costs.
_DUTY = {Level.NOMINAL: 1.0, Level.ELEVATED: 0.7, Level.CRITICAL: 0.35, Level.EMERGENCY: LEAST_DUTY}
# Whatever the model says: heat that it cannot explain ends by computing less.
_CAP = {Level.CRITICAL: 0.5, Level.EMERGENCY: LEAST_DUTY}


class Sensor(msgspec.Struct, frozen=True):
    """What is remembered of one temperature."""

    past: trust.Past
    fit: thermal.Fit
    smooth_c: float
    slope_c_s: float
    wanted: Level = Level.NOMINAL


class Judged(msgspec.Struct, frozen=True):
    """What one temperature asks for."""

    name: str
    wanted: Level
    duty: float
    text: str


def follow(known: Sensor | None, found: float, load: float, now: float) -> Sensor:
    """Takes in one reading."""
    past = trust.judge(known.past if known else None, found, load, now)
    if known is None or known.past.doubt:
        return Sensor(past, thermal.start(found, load, now), found, 0.0)
    if past.doubt:
        return msgspec.structs.replace(known, past=past)
    step_s = now - known.past.at
    predicted = known.smooth_c + known.slope_c_s * step_s
    smooth_c = predicted + (found - predicted) * -math.expm1(-step_s / _LEVEL_S)
    slope = known.slope_c_s
    if step_s > 0:
        slope += ((smooth_c - known.smooth_c) / step_s - slope) * -math.expm1(-step_s / _SLOPE_S)
    return Sensor(past, thermal.learn(known.fit, found, load, now), smooth_c, slope, known.wanted)


def judge(sensor: Sensor, reading: Temperature, policy: Policy) -> Judged:
    """What a trusted temperature asks for."""
    at = thresholds(reading.trips, policy)
    fit = sensor.fit
    if fit.evidence_s >= policy.fit_evidence_s:
        wished = fit.largest_load(at.set_c, policy.horizon_s)
        asked = min(max(wished, LEAST_DUTY), 1.0)
        soon_c = fit.ahead(min(sensor.past.load, asked), policy.horizon_s)
        wanted = _level(sensor.smooth_c, soon_c, sensor.wanted, at, policy)
        if asked < 1.0 and wanted is Level.NOMINAL:
            wanted = Level.ELEVATED
        asked = min(asked, _CAP.get(wanted, 1.0))
    else:
        soon_c = sensor.smooth_c + max(sensor.slope_c_s, 0.0) * policy.horizon_s
        wanted = _level(sensor.smooth_c, soon_c, sensor.wanted, at, policy)
        asked = _DUTY[wanted]
    text = f"{reading.name} is at {sensor.smooth_c:.1f} °C, expected at {soon_c:.1f} °C in {policy.horizon_s:g} s"
    return Judged(reading.name, wanted, asked, f"{text}; it is to stay below {at.set_c:g} °C")


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
