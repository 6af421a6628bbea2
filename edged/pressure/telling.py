"""What the sensors say, as facts for telemetry: whole numbers, whose names end in the unit, and few. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from edged.facts import Reading
from edged.pressure.readings import Readings


def facts(readings: Readings, distrusted: Collection[str] = ()) -> Iterator[Reading]:
    """One fact for each reading that there is; of the temperatures the highest, those of `distrusted` left out."""
    believed = (each.celsius for each in readings.temperatures if each.name not in distrusted)
    if (hottest := max((each for each in believed if each is not None), default=None)) is not None:
        yield Reading("temperature_c", round(hottest))
    for resource, stall in readings.stalls.items():
        yield Reading(f"stall_some_permille:{resource}", round(stall.some_percent * 10))
        yield Reading(f"stall_full_permille:{resource}", round(stall.full_percent * 10))
    if readings.load is not None:
        yield Reading("load_permille", round(readings.load * 1000))
    if readings.temperatures or readings.throttled:
        yield Reading("throttled_count", len(readings.throttled))
    if readings.memory is not None:
        yield Reading("memory_available_mib", readings.memory.available_bytes >> 20)
        yield Reading("oom_kills_count", readings.memory.oom_kills)
    if readings.power is not None and readings.power.charge_percent is not None:
        yield Reading("charge_permille", round(readings.power.charge_percent * 10))
    if readings.storage is not None:
        yield Reading("storage_free_mib", readings.storage.free_bytes >> 20)
