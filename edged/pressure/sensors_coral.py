"""The temperature of Coral's Edge TPUs on PCIe.

Source: /sys/class/apex, gasket-driver/src/apex_driver.c; millidegrees. The driver lowers the clock at `trip_point0`
to `trip_point2`, and switches the chip off at `temp_warn2` where that is enabled.
"""

from __future__ import annotations

import functools
from pathlib import Path

from edged.pressure import files
from edged.pressure.probe import Probe
from edged.pressure.readings import Trip

_MILLI = 1000


def probes(root: Path) -> list[Probe]:
    """Every chip."""
    return [
        Probe(
            name=f"coral:{chip.name}",
            unit="°C",
            source=str(chip / "temp"),
            read=functools.partial(files.number, str(chip / "temp"), _MILLI),
            trips=functools.partial(_trips, chip),
            steers=True,
        )
        for chip in files.numbered(root / "sys/class/apex", "apex_")
    ]


def _trips(chip: Path) -> tuple[Trip, ...]:
    found = [
        Trip("passive", celsius)
        for number in range(3)
        if (celsius := files.number(chip / f"trip_point{number}_temp", _MILLI)) is not None
    ]
    off_c = files.number(chip / "temp_warn2", _MILLI)
    if off_c is not None and files.number(chip / "temp_warn2_en"):
        found.append(Trip("critical", off_c))
    return tuple(found)
