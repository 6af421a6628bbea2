"""The daemon's life: its phase, its signals, and the lock by which there is one of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from edged import clock
from edged.changes import Changes
from edged.errors import Code, EdgedError

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
        self._changes = changes

    def enter(self, phase: Phase) -> None:
        """Goes on to `phase`."""
        self.phase = phase
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
            os._exit(_ENDED_BY_SIGTERM)
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGINT, end)
    loop.add_signal_handler(signal.SIGHUP, reload)


class Lock:
    """Held while the daemon runs: a second one would silently take the sockets of the first."""

    def __init__(self, path: Path) -> None:
        """Takes the lock. Raises EdgedError: already_running naming the holder, or cannot_listen."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EdgedError(
                Code.CANNOT_LISTEN, f"{path} cannot be opened: {error.strerror}", "check who may write to its folder"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise EdgedError(
                Code.ALREADY_RUNNING,
                f"another edged (pid {holder}) holds {path}",
                "stop it first, or give this one a folder of its own with --root",
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets the next one start. The file stays: removing it would race with whoever opens it now."""
        os.close(self._descriptor)


def make_folder(path: Path, mode: int) -> None:
    """Makes `path` and what is missing above it. Raises EdgedError (not_permitted)."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise EdgedError(
            Code.NOT_PERMITTED,
            f"{path} cannot be made: {error.strerror}",
            "start edged as its service does, or give it a folder of yours with --root",
        ) from error
