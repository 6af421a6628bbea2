"""All sensors of this device: found, looked for again now and then, and read together.

Every source stands in a file of its own, takes the root of the file system, and gives None for what is absent.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edged import clock
from edged.pressure import (
    sensors_coral,
    sensors_hwmon,
    sensors_memory,
    sensors_nvml,
    sensors_power,
    sensors_storage,
    sensors_thermal,
    sensors_throttle,
)
from edged.pressure.probe import Probe
from edged.pressure.readings import Readings, Temperature

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
        self._state = state
        self._gpus: list[Probe] = []
        self.probes: tuple[Probe, ...] = ()
        self._slow: Readings | None = None
        self._slow_at = 0.0
        self.groups = sensors_memory.groups(root)
        self._find()

    def _find(self) -> None:
        root = self._root
        zones = sensors_thermal.zones(root)
        if root == Path("/") and not any(probe.read() is not None for probe in self._gpus):
            self._gpus = sensors_nvml.probes()  # also after the driver was loaded anew
        found = (
            *zones,
            *sensors_thermal.cooling(root),
            *_not_twice(sensors_hwmon.probes(root), zones, {probe.name for probe in self.probes}),
            *sensors_throttle.probes(root),
            *sensors_coral.probes(root),
            *self._gpus,
        )
        # Some remember what they said last; a GPU's belong to the driver that they were found under.
        known = {(each.name, each.source): each for each in self.probes if each.source != sensors_nvml.SOURCE}
        self.probes = tuple(known.get((probe.name, probe.source), probe) for probe in found)
        self._steering = [probe for probe in self.probes if probe.steers]
        self._throttling = [probe for probe in self.probes if probe.throttles]
        self._found_at = clock.monotonic()
        self._slow = None  # what is new has trip points

    def read(self, load: float | None = None, fired: tuple[str, ...] = (), *, stalls: bool = False) -> Readings:
        """Everything that decides. `stalls`: also the kernel's averages, where triggers do not tell of them."""
        if clock.monotonic() - self._found_at > _FIND_S:
            self._find()
        slow = self._slowly()
        trips = {each.name: each.trips for each in slow.temperatures}
        return Readings(
            load=load,
            temperatures=tuple(
                Temperature(probe.name, _celsius(probe), trips.get(probe.name, ())) for probe in self._steering
            ),
            throttled=tuple(f"{probe.name} ({said})" for probe in self._throttling if (said := _holding_back(probe))),
            stalls=sensors_memory.stalls(self._root) if stalls else {},
            fired=fired,
            memory=sensors_memory.read(self._root, self.groups),
            power=slow.power,
            storage=slow.storage,
        )

    def _slowly(self) -> Readings:
        """What hardly changes, read again when it is old: trip points, the supply, the file system."""
        now = clock.monotonic()
        if self._slow is None or now - self._slow_at > _SLOWLY_S:
            self._slow = Readings(
                temperatures=tuple(
                    Temperature(probe.name, None, probe.trips() if probe.trips else ()) for probe in self._steering
                ),
                power=sensors_power.read(self._root),
                storage=sensors_storage.read(self._root, self._state),
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
