"""Sensors that lie: which reading is believed, told from what it said before. Pure."""

from __future__ import annotations

import math

import msgspec

# No silicon that still computes is colder or hotter. Drivers say -89, -273 or 255 for "no value".
COLDEST_C, HOTTEST_C = -40.0, 150.0
# Between two readings at most this far apart, no temperature changes so much.
JUMP_C, JUMP_S = 50.0, 10.0
# After a jump it is believed again when it has stayed plausible for so long: perhaps it was true.
PROBATION_S = 30.0
# A temperature that is exactly the same for so long, while the load moved so much, is none.
STUCK_S, STUCK_LOAD = 300.0, 0.5
# What a single second did to the load does not show in a temperature.
_LOAD_S = 30.0


class Past(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of one sensor; `doubt` says why its last reading is not believed, empty when it is."""

    celsius: float
    at: float
    same_since: float
    load: float = 0.0
    """Smoothed."""
    low_load: float = 0.0
    high_load: float = 0.0
    """Its bounds while the temperature was the same."""
    jumped_at: float | None = None
    stuck: bool = False
    doubt: str = ""
    moved: bool = False
    """From one temperature that can be to another."""
    believed: bool = False
    """At some time; one that never moved, whatever the load did, is not counted."""


def judge(past: Past | None, celsius: float, load: float, now: float) -> Past:
    """Takes the next reading of a sensor. `load` is from 0 to 1, `now` monotonic seconds."""
    if past is None:
        doubt = impossible(celsius)
        return Past(celsius, now, now, load, load, load, doubt=doubt, believed=not doubt)
    smooth = past.load + (load - past.load) * -math.expm1(-(now - past.at) / _LOAD_S)
    same = celsius == past.celsius
    same_since = past.same_since if same else now
    low, high = (min(past.low_load, smooth), max(past.high_load, smooth)) if same else (smooth, smooth)
    stuck = same and (past.stuck or (now - same_since >= STUCK_S and high - low >= STUCK_LOAD))
    jumped_at = past.jumped_at
    could_be = not impossible(past.celsius) and not impossible(celsius)
    if could_be and abs(celsius - past.celsius) >= JUMP_C and now - past.at <= JUMP_S:
        jumped_at = now
    elif jumped_at is not None and now - jumped_at >= PROBATION_S:
        jumped_at = None
    doubt = impossible(celsius)
    if not doubt and jumped_at is not None:
        doubt = f"it jumped by {JUMP_C:g} °C or more between two readings"
    if not doubt and stuck:
        doubt = f"it has said exactly {celsius:g} °C for {STUCK_S:g} s while the load changed"
    moved = past.moved or (could_be and not same)
    believed = (past.believed or not doubt) and (moved or not stuck)
    return Past(celsius, now, same_since, smooth, low, high, jumped_at, stuck, doubt, moved, believed)


def impossible(celsius: float) -> str:
    """Why no sensor that works says this; empty where one may."""
    if celsius == 0:
        return "it says exactly 0 °C"
    if not COLDEST_C <= celsius <= HOTTEST_C:
        return f"it says {celsius:g} °C, which cannot be"
    return ""
