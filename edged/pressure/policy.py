"""By what the governor judges: the thresholds of this device, and those that follow from its trip points. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edged.config.pressure import Pressure
from edged.pressure.readings import Trip

# A trip point outside of it is none: drivers write 0 or -274 for one that is switched off.
_COLDEST_TRIP_C, _HOTTEST_TRIP_C = 40.0, 150.0
# The governor keeps so far below a temperature at which the device is switched off.
_BELOW_CRITICAL_C = 10.0


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that decide; the table [pressure] says what each means. 0 bytes to write in a day: no bound."""

    throttle_c: float = 85.0
    margin_c: float = 3.0
    hysteresis_c: float = 3.0
    horizon_s: float = 30.0
    dwell_s: float = 60.0
    memory_reserve_bytes: int = 128 * 2**20
    storage_reserve_bytes: int = 256 * 2**20
    write_budget_bytes: int = 0
    battery_low_percent: float = 20.0
    stall_percent: float = 40.0


def policy_of(settings: Pressure) -> Policy:
    """The policy that the settings make."""
    return Policy(
        throttle_c=settings.throttle_c,
        margin_c=settings.margin_c,
        hysteresis_c=settings.hysteresis_c,
        horizon_s=settings.horizon_s,
        dwell_s=settings.dwell_s,
        memory_reserve_bytes=settings.memory_reserve_mib * 2**20,
        storage_reserve_bytes=settings.storage_reserve_mib * 2**20,
        write_budget_bytes=settings.write_budget_mib * 2**20,
        battery_low_percent=settings.battery_low_percent,
        stall_percent=settings.stall_percent,
    )


class Thresholds(msgspec.Struct, frozen=True):
    """The temperatures of one sensor at which the governor acts."""

    set_c: float
    """Held below it; expected above it: elevated."""
    critical_c: float
    emergency_c: float


def thresholds(trips: Sequence[Trip], policy: Policy) -> Thresholds:
    """From the trip points that can be, whatever their order; where none of them throttles, from the settings, too.

    Where the only one switches the device off, somebody throttles before that who names none: a Raspberry Pi's firmware
    does from 80 °C on, and its zone says 110 °C.
    """
    throttling = [trip.celsius for trip in trips if trip.kind in ("passive", "hot") and _possible(trip)]
    ending = [trip.celsius for trip in trips if trip.kind == "critical" and _possible(trip)]
    throttle_c = min([*(throttling or [policy.throttle_c]), *(celsius - _BELOW_CRITICAL_C for celsius in ending)])
    emergency_c = min([throttle_c + policy.margin_c, *(celsius - policy.margin_c for celsius in ending)])
    return Thresholds(
        throttle_c - policy.margin_c, throttle_c - policy.margin_c * 0.3, max(emergency_c, throttle_c - 1.0)
    )


def doubts(trips: Sequence[Trip]) -> list[str]:
    """What is wrong with trip points, a line each. One at 0 °C or below is switched off."""
    found = [
        f"its {trip.kind} trip point says {trip.celsius:g} °C, which is not believed"
        for trip in trips
        if trip.kind != "active" and trip.celsius > 0 and not _possible(trip)
    ]
    throttling = [trip.celsius for trip in trips if trip.kind in ("passive", "hot") and _possible(trip)]
    ending = [trip.celsius for trip in trips if trip.kind == "critical" and _possible(trip)]
    if throttling and ending and max(throttling) >= min(ending):
        found.append(
            f"it would end the device at {min(ending):g} °C before it throttles at {max(throttling):g} °C;"
            " the lower of the two is kept below"
        )
    return found


def _possible(trip: Trip) -> bool:
    return _COLDEST_TRIP_C <= trip.celsius <= _HOTTEST_TRIP_C
