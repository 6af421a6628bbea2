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
# Cooling devices that hold a processor back, by what their drivers call them (drivers/acpi/processor_driver.c; in
# drivers/thermal cpufreq_cooling.c, cpuidle_cooling.c, devfreq_cooling.c, intel/intel_powerclamp.c; Jetson's own).
# Others are above 0 with nothing hot: a fan, a screen that is dimmed (`LCD`), an offset of the firmware (`TCC Offset`).
_HOLDS_BACK = re.compile(
    r"Processor|intel_powerclamp|(thermal-)?(cpufreq|cpuidle|devfreq|idle)\b.*|([0-9a-f]+\.)?gpu(?!.*fan).*"
    r"|.+-(balanced|throttle-alert)|(tegra-)?heavy"
)


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
    """Every cooling device, of which some say when they hold a processor back."""
    found = []
    for device in files.numbered(root / "sys/class/thermal", "cooling_device"):
        kind = files.text(device / "type") or "unknown"
        found.append(
            Probe(
                name=f"{device.name}:{kind}",
                unit="step",
                source=str(device / "cur_state"),
                read=functools.partial(_state, device),
                throttles=bool(_HOLDS_BACK.fullmatch(kind)),
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


def _state(device: Path) -> str | float | None:
    """`2 of 5`; the number alone where it cools nothing: 0, or none of its steps, as -1 of `intel_powerclamp`."""
    state, most = files.number(device / "cur_state"), files.number(device / "max_state")
    if state is None or most is None or not 0 < state <= most:
        return state
    return f"{state:.0f} of {most:.0f}"
