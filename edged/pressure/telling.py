"""What the sensors say, as facts for telemetry: whole numbers, whose names end in the unit. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from edged.facts import Reading
from edged.pressure.readings import Readings


def facts(readings: Readings) -> Iterator[Reading]:
    """One fact for each reading that there is."""
    for temperature in readings.temperatures:
        if temperature.celsius is not None:
            yield Reading(f"temperature_mc:{temperature.name}", round(temperature.celsius * 1000))
    for resource, stall in readings.stalls.items():
        yield Reading(f"stall_some_permille:{resource}", round(stall.some_percent * 10))
        yield Reading(f"stall_full_permille:{resource}", round(stall.full_percent * 10))
    if readings.load is not None:
        yield Reading("load_permille", round(readings.load * 1000))
    if readings.temperatures or readings.throttled:
        yield Reading("throttled_count", len(readings.throttled))
    if readings.memory is not None:
        yield Reading("memory_available_bytes", readings.memory.available_bytes)
        yield Reading("oom_kills_count", readings.memory.oom_kills)
    if readings.power is not None and readings.power.charge_percent is not None:
        yield Reading("charge_permille", round(readings.power.charge_percent * 10))
    if readings.storage is not None:
        yield Reading("storage_free_bytes", readings.storage.free_bytes)
