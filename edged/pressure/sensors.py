"""All sensors of this device: found, looked for again now and then, and read together.

Every source stands in a file of its own, takes the root of the file system, and gives None for what is absent. One
that fails for a reason which nobody thought of costs itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TypeVar

from edged import clock
from edged.pressure import (
    sensors_coral,
    sensors_hwmon,
    sensors_nvml,
    sensors_power,
    sensors_thermal,
    sensors_throttle,
)
from edged.pressure.probe import Probe
from edged.pressure.readings import Readings, Temperature
from edged.pressure.resources import Resources
from edged.pressure.stall import Kind

_Told = TypeVar("_Told")

_SLOWLY_S = 10.0
# A driver that is loaded later, an accelerator that is plugged in, a zone that comes back.
_FIND_S = 60.0
# A hwmon chip of the same device as a thermal zone says the same: the zone has the trip points.
_SAME = {"cpu_thermal": "cpu", "gpu_thermal": "gpu", "soc_thermal": "soc", "acpitz": "acpitz"}


class Sensors:
    """What can be read below `root`; `state` is the folder whose file system is watched."""

    def __init__(self, root: Path, state: Path) -> None:
        """Looks for everything. It may take long: some drivers answer slowly."""
        self._root = root
        self._resources = Resources(root, state)
        self._gpus: list[Probe] = []
        self.probes: tuple[Probe, ...] = ()
        self.faults: dict[str, str] = {}
        """By sensor or source, how the reading of it failed the first time, where edged knows no such failure."""
        self._slow: Readings | None = None
        self._slow_at = 0.0
        self._find()

    def _find(self) -> None:
        root = self._root
        zones = self._probes("thermal zones", lambda: sensors_thermal.zones(root))
        chips = self._probes("hwmon", lambda: sensors_hwmon.probes(root))
        found = (
            *zones,
            *self._probes("cooling devices", lambda: sensors_thermal.cooling(root)),
            *_not_twice(chips, zones, {probe.name for probe in self.probes}),
            *self._probes("throttling", lambda: sensors_throttle.probes(root)),
            *self._probes("coral", lambda: sensors_coral.probes(root)),
            *self._probes("nvml", self._find_gpus),
        )
        # Some remember what they said last; a GPU's belong to the driver that they were found under.
        known = {(each.name, each.source): each for each in self.probes if each.source != sensors_nvml.SOURCE}
        self.probes = tuple(known.get((probe.name, probe.source), probe) for probe in found)
        self._steering = [probe for probe in self.probes if probe.steers]
        self._throttling = [probe for probe in self.probes if probe.throttles]
        self._found_at = clock.monotonic()
        self._slow = None  # what is new has trip points

    def _find_gpus(self) -> list[Probe]:
        """Asked for anew where none answers, as after the driver was loaded anew."""
        if self._root == Path("/") and not any(probe.read() is not None for probe in self._gpus):
            self._gpus = sensors_nvml.probes()
        return self._gpus

    def _probes(self, source: str, find: Callable[[], list[Probe]]) -> list[Probe]:
        none: list[Probe] = []
        return self._ask(source, find, none)

    def _ask(self, source: str, ask: Callable[[], _Told], absent: _Told) -> _Told:
        """What a source tells; `absent` where that fails."""
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - the others are to be read all the same; who reads tells of it
            self.faults.setdefault(source, f"{type(error).__name__}: {error}")
            return absent

    def read(self, stalls: Collection[Kind] = ()) -> Readings:
        """Everything that decides; of `stalls` the kernel's averages, where no triggers tell of them."""
        if clock.monotonic() - self._found_at > _FIND_S:
            self._find()
        slow = self._slowly()
        trips = {each.name: each.trips for each in slow.temperatures}
        said = ((each.name, self._ask(each.name, partial(_holding_back, each), "")) for each in self._throttling)
        left = self._ask("memory and storage", lambda: self._resources.read(stalls), Readings())
        return Readings(
            temperatures=tuple(
                Temperature(each.name, self._ask(each.name, partial(_celsius, each), None), trips.get(each.name, ()))
                for each in self._steering
            ),
            throttled=tuple(f"{name} ({words})" for name, words in said if words),
            stalls=left.stalls,
            memory=left.memory,
            power=slow.power,
            storage=left.storage,
        )

    def _slowly(self) -> Readings:
        """What hardly changes, read again when it is old: trip points, the supply."""
        now = clock.monotonic()
        if self._slow is None or now - self._slow_at > _SLOWLY_S:
            self._slow = Readings(
                temperatures=tuple(
                    Temperature(each.name, None, self._ask(each.name, each.trips, ()) if each.trips else ())
                    for each in self._steering
                ),
                power=self._ask("power", lambda: sensors_power.read(self._root), None),
            )
            self._slow_at = now
        return self._slow


def _celsius(probe: Probe) -> float | None:
    value = probe.read()
    return value if isinstance(value, float) else None


def _holding_back(probe: Probe) -> str:
    """What a throttling probe says, when it says that it does."""
    said = probe.read()
    return said if isinstance(said, str) else ""


def _not_twice(chips: list[Probe], zones: list[Probe], known: Collection[str]) -> list[Probe]:
    """One that stood in for a zone goes on when that is back."""
    kinds = [zone.name.partition(":")[2] for zone in zones]
    return [
        chip
        for chip in chips
        if chip.name in known
        or not any(f":{name}/" in chip.name and any(word in kind for kind in kinds) for name, word in _SAME.items())
    ]
