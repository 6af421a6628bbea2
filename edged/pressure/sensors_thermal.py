"""Thermal zones with their trip points, and cooling devices.

Source: /sys/class/thermal, Documentation/ABI/testing/sysfs-class-thermal; temperatures in millidegrees. On Jetson
boards these are the only ones: `cpu-thermal`, `gpu-thermal`, `tj-thermal` and so on.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from edged.pressure import files
from edged.pressure.probe import Probe
from edged.pressure.readings import Trip

_MILLI = 1000
# Zones that are hot where computing is. Others, as of a radio or a battery, are shown and not acted on, unless they
# have trip points of their own at which the kernel acts.
_OF_PROCESSORS = re.compile(r"cpu|gpu|soc|cv[0-9]|tj|pkg|core|npu|tpu|ddr|apss|acpitz|big|little", re.IGNORECASE)
_HARMLESS = re.compile(r"^(INT3400|iwlwifi|.*batt|pmic|.*charger)", re.IGNORECASE)
# A fan that turns is no throttling.
_FAN = re.compile(r"fan|cooler|tachometer", re.IGNORECASE)


def zones(root: Path) -> list[Probe]:
    """Every zone."""
    found = []
    for zone in files.numbered(root / "sys/class/thermal", "thermal_zone"):
        kind = files.text(zone / "type") or "unknown"
        found.append(
            Probe(
                name=f"{zone.name}:{kind}",
                unit="°C",
                source=str(zone / "temp"),
                read=functools.partial(files.number, str(zone / "temp"), _MILLI),
                trips=functools.partial(_trips, zone),
                steers=not _HARMLESS.match(kind) and (bool(_OF_PROCESSORS.search(kind)) or _acts(zone)),
            )
        )
    return found


def cooling(root: Path) -> list[Probe]:
    """Every cooling device; those that are no fan say when they hold a processor back."""
    found = []
    for device in files.numbered(root / "sys/class/thermal", "cooling_device"):
        kind = files.text(device / "type") or "unknown"
        found.append(
            Probe(
                name=f"{device.name}:{kind}",
                unit="step",
                source=str(device / "cur_state"),
                read=functools.partial(_state, str(device / "cur_state"), files.number(device / "max_state") or 0),
                throttles=not _FAN.search(kind),
            )
        )
    return found


def _trips(zone: Path) -> tuple[Trip, ...]:
    """Their numbers may have gaps, their order means nothing, and some drivers change them at run time."""
    found = []
    for number in range(16):
        kind = files.text(zone / f"trip_point_{number}_type")
        celsius = files.number(zone / f"trip_point_{number}_temp", _MILLI)
        if kind and celsius is not None:
            found.append(Trip(kind, celsius))
    return tuple(found)


def _acts(zone: Path) -> bool:
    return any(trip.kind != "active" for trip in _trips(zone))


def _state(path: str, most: float) -> str | None:
    """`2 of 5`."""
    state = files.number(path)
    return None if state is None else f"{state:.0f} of {most:.0f}"
