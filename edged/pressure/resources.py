"""What the kernel knows without asking a driver: memory, stalls, and the file system of the state folder.

It is read even while the driver of a sensor hangs.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edged import clock
from edged.pressure import sensors_memory, sensors_storage, stall
from edged.pressure.readings import Readings, Storage

# It changes slowly.
_STORAGE_S = 10.0


class Resources:
    """Of the machine below `root`; `state` is the folder whose file system is watched."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root = root
        self._state = state
        self._storage: Storage | None = None
        self._storage_at: float | None = None
        self.groups = sensors_memory.groups(root)
        """The control groups around this process."""

    def read(self, stalls: Collection[stall.Kind] = ()) -> Readings:
        """All of it; of `stalls` the averages."""
        now = clock.monotonic()
        if self._storage_at is None or now - self._storage_at > _STORAGE_S:
            self._storage, self._storage_at = sensors_storage.read(self._root, self._state), now
        return self.read_no_disk(stalls)

    def read_no_disk(self, stalls: Collection[stall.Kind] = ()) -> Readings:
        """The same, with what was known last of the file system, whose disk may hang."""
        return Readings(
            stalls=stall.averages(stalls), memory=sensors_memory.read(self._root, self.groups), storage=self._storage
        )
