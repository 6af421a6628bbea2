"""One value that this device can show: what it is, where it comes from, and how it is read."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edged.pressure.readings import Trip

Value = float | str | None


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor. `read` gives None for what is not there at the moment."""

    name: str
    """Unique on this device, and the same after a restart: `thermal_zone0:cpu-thermal`."""
    unit: str
    source: str
    """The file or interface it is read from."""
    read: Callable[[], Value]
    trips: Callable[[], tuple[Trip, ...]] | None = None
    steers: bool = False
    """The governor acts on it; the others are only shown."""
    throttles: bool = False
    """It says, in words, that a processor is held back for its heat now; a number, None or nothing: it is not."""
