"""The daemon's life: its phase and its signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum

from edged import clock, log
from edged.changes import Changes
from edged.types import Level

# What a shell shows for a process that SIGTERM ended.
_ENDED_BY_SIGTERM = 128 + signal.SIGTERM


class Phase(StrEnum):
    """Where the daemon stands between its start and its end."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


class Life:
    """What everybody may know of the daemon as a whole."""

    def __init__(self, changes: Changes) -> None:
        self.phase = Phase.STARTING
        self.started_at: datetime = clock.wall()
        self.degraded_reasons: list[str] = []
        self.listening: list[str] = []
        self.level = Level.NOMINAL
        self._changes = changes

    def enter(self, phase: Phase) -> None:
        """Goes on to `phase`."""
        self.phase = phase
        self._changes.mark()

    def press(self, level: Level) -> None:
        """The device is pressed so hard from now on."""
        self.level = level
        self._changes.mark()

    def degrade(self, reason: str) -> None:
        """Remembers that something is not as it should be, until it has recovered or the daemon ends."""
        self.degraded_reasons.append(_text(reason))
        self._changes.mark()

    def recover(self, reason: str) -> None:
        """Forgets what `degrade` was told."""
        self.degraded_reasons.remove(_text(reason))
        self._changes.mark()


def _text(reason: str) -> str:
    """As text that can be sent: it may name a file whose name is none."""
    return reason.encode(errors="replace").decode()


def watch_signals(stop: asyncio.Event, reload: Callable[[], None]) -> None:
    """SIGTERM and SIGINT set `stop`, a second one ends the process at once; SIGHUP calls `reload`."""

    def end() -> None:
        if stop.is_set():
            log.drain()
            os._exit(_ENDED_BY_SIGTERM)
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGINT, end)
    loop.add_signal_handler(signal.SIGHUP, reload)
