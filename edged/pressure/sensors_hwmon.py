"""Temperatures, fans and power rails of hwmon, and Jetson's older rails.

Source: /sys/class/hwmon, Documentation/hwmon/sysfs-interface.rst; millidegrees, revolutions a minute, mV, mA, µW.
Jetson's INA3221 monitors are there as `in*_label` with `curr*_input`; before L4T 34 they stood in
/sys/bus/i2c/drivers/ina3221x, in mW.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from edged.pressure import files
from edged.pressure.probe import Probe
from edged.pressure.readings import Trip

# Chips that sit in or at what computes.
_OF_PROCESSORS = re.compile(r"coretemp|k10temp|k8temp|zenpower|cpu_?thermal|soc_?thermal|amdgpu|^xe|i915|nouveau")
_MILLI = 1000


def probes(root: Path) -> list[Probe]:
    """All of them."""
    found = []
    for chip in files.numbered(root / "sys/class/hwmon", "hwmon"):
        name = files.text(chip / "name") or chip.name
        found += _temperatures(chip, name) + _fans(chip, name) + _rails(chip, name)
    return found + _old_rails(root)


def _temperatures(chip: Path, name: str) -> list[Probe]:
    return [
        Probe(
            name=_name(chip, name, channel, "temp"),
            unit="°C",
            source=str(chip / f"temp{channel}_input"),
            read=functools.partial(files.number, str(chip / f"temp{channel}_input"), _MILLI),
            trips=functools.partial(_trips, chip, channel),
            steers=bool(_OF_PROCESSORS.search(name)),
        )
        for channel in _channels(chip, "temp")
    ]


def _fans(chip: Path, name: str) -> list[Probe]:
    return [
        Probe(
            name=_name(chip, name, channel, "fan"),
            unit="1/min",
            source=str(chip / f"fan{channel}_input"),
            read=functools.partial(files.number, str(chip / f"fan{channel}_input")),
        )
        for channel in _channels(chip, "fan")
    ]


def _rails(chip: Path, name: str) -> list[Probe]:
    """Power where it is given, or what voltage and current make it."""
    given = [
        Probe(
            name=_name(chip, name, channel, "power"),
            unit="W",
            source=str(chip / f"power{channel}_input"),
            read=functools.partial(files.number, str(chip / f"power{channel}_input"), 1_000_000),
        )
        for channel in _channels(chip, "power")
    ]
    made = [
        Probe(
            name=_name(chip, name, channel, "in"),
            unit="W",
            source=str(chip / f"curr{channel}_input"),
            read=functools.partial(_watts, chip, channel),
        )
        for channel in _channels(chip, "curr")
        if files.exists(chip / f"in{channel}_input") and not given
    ]
    return given + made


def _old_rails(root: Path) -> list[Probe]:
    found = []
    for path in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/in_power*_input")):
        channel = re.sub(r"\D", "", path.name)
        rail = files.text(path.with_name(f"rail_name_{channel}")) or channel
        read = functools.partial(files.number, str(path), _MILLI)
        found.append(Probe(name=f"ina3221x:{rail}", unit="W", source=str(path), read=read))
    return found


def _watts(chip: Path, channel: int) -> float | None:
    volts = files.number(chip / f"in{channel}_input", _MILLI)
    amperes = files.number(chip / f"curr{channel}_input", _MILLI)
    return None if volts is None or amperes is None else volts * amperes


def _trips(chip: Path, channel: int) -> tuple[Trip, ...]:
    """A chip's critical limit is where it ends the device, or begins to throttle: kept well below either way."""
    critical = files.number(chip / f"temp{channel}_crit", _MILLI)
    return () if critical is None else (Trip("critical", critical),)


def _name(chip: Path, name: str, channel: int, kind: str) -> str:
    label = files.text(chip / f"{kind}{channel}_label")
    return f"{chip.name}:{name}/{label or f'{kind}{channel}'}"


def _channels(chip: Path, kind: str) -> list[int]:
    try:
        matches = [re.fullmatch(rf"{kind}([0-9]{{1,3}})_input", entry.name) for entry in chip.iterdir()]
    except OSError:
        return []
    return sorted(int(match[1]) for match in matches if match)
