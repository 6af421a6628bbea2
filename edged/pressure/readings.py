"""What the sensors say at one moment, in the units of its names. None or nothing: absent."""

from __future__ import annotations

import msgspec


class Trip(msgspec.Struct, frozen=True):
    """A temperature at which the kernel acts: `active` (a fan), `passive` (it throttles), `hot`, `critical`."""

    kind: str
    celsius: float


class Temperature(msgspec.Struct, frozen=True, omit_defaults=True):
    """One temperature, as the sensor gives it."""

    name: str
    celsius: float | None = None
    trips: tuple[Trip, ...] = ()


class Stall(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much of the last 10 s some or all tasks were stalled for want of a resource."""

    some_percent: float = 0.0
    full_percent: float = 0.0


class Memory(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tightest memory that this process lives in: its control group's or the machine's."""

    limit_bytes: int
    available_bytes: int
    oom_kills: int = 0
    """How often the kernel has ended processes for want of memory around here; only its growth means anything."""


class Power(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the power comes from."""

    mains: bool | None = None
    charge_percent: float | None = None
    undervoltage: bool | None = None


class Storage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The file system of the state folder."""

    total_bytes: int
    free_bytes: int
    total_inodes: int = 0
    """0: a file system that makes them as it needs them."""
    free_inodes: int = 0
    writable: bool = True
    written_bytes: int | None = None
    """What this process and its children have written since it started, to any disk."""


class Readings(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that one decision rests on."""

    load: float | None = None
    """The share of time in which inferences ran since the last reading, 0 to 1."""
    temperatures: tuple[Temperature, ...] = ()
    throttled: tuple[str, ...] = ()
    """Who holds a processor back for its heat now, by its source's own words."""
    stalls: dict[str, Stall] = {}
    """By resource: cpu, memory, io."""
    fired: tuple[str, ...] = ()
    """Stall triggers that fired since the last reading: `memory.some`, `memory.full`, `memory.watch`."""
    memory: Memory | None = None
    power: Power | None = None
    storage: Storage | None = None
