"""How pressed the state folder is: free space, inodes and what may be written, against the reserve. Pure."""

from __future__ import annotations

import msgspec

from edged.pressure.readings import Storage
from edged.types import Level

# Below this share of the inodes it counts as near the reserve, whatever the space.
_LEAST_INODES = 0.02


# The budget is for a day; what is written drains off at its rate.
_DAY_S = 86_400.0


class Writes(msgspec.Struct, frozen=True):
    """What was written, and how much of it the budget has not yet made good."""

    at: float
    total_bytes: int
    owed_bytes: float = 0.0


class Pressed(msgspec.Struct, frozen=True):
    """The level, and why."""

    level: Level
    text: str


def level(storage: Storage, reserve_bytes: int) -> Pressed:
    """Elevated within twice the reserve: the store collects, telemetry coarsens, nothing is fetched. Critical within
    it: only the journal writes. Emergency: nothing can be written; the daemon serves all the same.

    A file system too small for the reserve is held to a quarter of its own size.
    """
    reserve_bytes = min(reserve_bytes, storage.total_bytes // 4)
    free = f"{storage.free_bytes >> 20} MiB of {storage.total_bytes >> 20} MiB are free, the reserve is"
    text = f"{free} {reserve_bytes >> 20} MiB"
    if not storage.writable:
        return Pressed(Level.EMERGENCY, "the state folder cannot be written to")
    if storage.free_bytes == 0 or (storage.total_inodes and storage.free_inodes == 0):
        what = "no space" if storage.free_bytes == 0 else "no inode"
        return Pressed(Level.EMERGENCY, f"{what} is left in the state folder's file system")
    if storage.total_inodes:
        share = storage.free_inodes / storage.total_inodes
        if share < _LEAST_INODES:
            found = Level.CRITICAL if share < _LEAST_INODES / 2 else Level.ELEVATED
            return Pressed(found, f"{storage.free_inodes} of {storage.total_inodes} inodes are free")
    if storage.free_bytes < reserve_bytes:
        return Pressed(Level.CRITICAL, text)
    return Pressed(Level.ELEVATED if storage.free_bytes < 2 * reserve_bytes else Level.NOMINAL, text)


def follow(writes: Writes | None, total_bytes: int, now: float, budget_bytes: int) -> Writes:
    """After `total_bytes` were written in all. It is less for once where a child was reaped while that was read."""
    if writes is None:
        return Writes(now, total_bytes)
    drained = budget_bytes * (now - writes.at) / _DAY_S
    total_bytes = max(total_bytes, writes.total_bytes)
    owed = max(writes.owed_bytes - drained, 0.0) + total_bytes - writes.total_bytes
    return Writes(now, total_bytes, owed)


def worn(writes: Writes, budget_bytes: int) -> Pressed:
    """Elevated while more than a day's budget is owed: flash wears out by being written."""
    over = 0 < budget_bytes < writes.owed_bytes
    text = f"{int(writes.owed_bytes) >> 20} MiB were written to disks, {budget_bytes >> 20} MiB a day are allowed"
    return Pressed(Level.ELEVATED if over else Level.NOMINAL, text)
