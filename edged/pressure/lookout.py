"""The daemon's watch over pressure: its parts made and wired, started together, and told of settings anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edged.config.pressure import Pressure
from edged.events import EventLog
from edged.facts import Fact
from edged.models.memory import Memory
from edged.models.residency import Residency
from edged.pressure.accelerators import Accelerators, Proven
from edged.pressure.acting import Acting, IdleS
from edged.pressure.governor import Governor
from edged.pressure.ladder import Ladders
from edged.pressure.monitor import Monitor
from edged.pressure.policy import policy_of
from edged.pressure.room import Room
from edged.pressure.trace import Recorder
from edged.system import background
from edged.system.life import Life
from edged.types import Limits


class Parts(msgspec.Struct, frozen=True):
    """What the lookout stands on."""

    root: Path
    """Below it lie /proc and /sys: a whole system tree has its own."""

    state: Path
    """The state folder, as it lies below the root."""

    residency: Residency
    runtimes: Mapping[str, str | None]
    """Their versions."""

    templates: Callable[[], Mapping[str, int]]
    """The process ids of the warm ones, by engine."""

    events: EventLog
    life: Life
    busy_s: Callable[[], float]
    """How long the workers have worked until now, for the governor's duty."""

    idle_s: IdleS
    proven: Proven
    """What spares an accelerator its heartbeats."""

    take: Callable[[Limits], None]
    """Carries limits out where requests are served, and tells of them."""

    tell: Callable[[Fact], None] = lambda _fact: None
    """Hears what the sensors say."""


class Lookout:
    """One for the daemon."""

    def __init__(self, parts: Parts, settings: Pressure) -> None:
        self._parts = parts
        self._settings = settings
        self._acting = Acting(parts.residency, parts.idle_s, settings.idle_s)
        self._room = Room(parts.root, parts.residency, parts.idle_s, parts.events, settings, parts.templates)
        self._monitor: Monitor | None = None
        self._ladders: Ladders = {}
        self.memory = Memory(self._room.ask, self._room.judge, parts.runtimes)
        """What every load asks for room."""

    def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Begins to watch; it ends with `stack`."""
        parts = self._parts
        governor, quota_bytes = self._governor(), self._settings.trace_mib * 2**20
        recorder = Recorder(parts.state, quota_bytes, governor) if quota_bytes else None
        monitor = Monitor(
            parts.root, parts.state, governor, parts.events, self._take, parts.busy_s, recorder, parts.tell
        )
        accelerators = Accelerators(
            parts.root, parts.residency, parts.proven, lambda: monitor.doubts, parts.events, parts.life
        )
        self._monitor = monitor
        self._in_background(stack, "pressure monitor", monitor.run())
        self._in_background(stack, "models under pressure", self._follow_models())
        self._in_background(stack, "rest of idle models", self._acting.run())
        self._in_background(stack, "accelerator watchdog", accelerators.run())

    def apply(self, settings: Pressure) -> None:
        """These settings hold from now on."""
        self._settings = self._room.settings = settings
        self._acting.limit(settings.idle_s)
        self.govern()

    def govern(self) -> None:
        """Settings or the models' own ladders are new."""
        self._ladders = self._declared()
        if self._monitor is not None:
            self._monitor.govern(self._governor())

    def _in_background(self, stack: contextlib.AsyncExitStack, what: str, part: Coroutine[Any, Any, None]) -> None:
        background.run(stack, what, part, self._parts.life.degrade)

    def _governor(self) -> Governor:
        return Governor(policy_of(self._settings), self._declared())

    def _declared(self) -> Ladders:
        """By the revisions that answer, not by those on trial."""
        return {resident.name: resident.manifest.degradation for resident in self._parts.residency.serving()}

    async def _follow_models(self) -> None:
        """Governs anew when an update brings a model another ladder; what comes later runs what the level asks."""
        changes = self._parts.residency.changes
        while True:
            count = changes.count
            if self._declared() != self._ladders:
                self.govern()
            self._acting.prefer()
            await changes.after(count)

    def _take(self, limits: Limits) -> None:
        self._parts.take(limits)
        self._acting.take(limits)
        self._parts.life.press(limits.level)
