"""What a running edged has counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.models import REPO

PATIENCE_S = 30


class Counters(msgspec.Struct, frozen=True):
    """Of one model, since the daemon's start."""

    ok: int = 0
    failed: int = 0
    refused: int = 0
    batches: int = 0

    def __sub__(self, before: Counters) -> Counters:
        return Counters(
            self.ok - before.ok,
            self.failed - before.failed,
            self.refused - before.refused,
            self.batches - before.batches,
        )


class State(msgspec.Struct, frozen=True):
    """Of the daemon."""

    models: dict[str, Counters]
    workers: dict[str, int]
    """The process id of each model's worker."""
    batches: dict[str, dict[int, int]] = {}
    """How many each model's worker has run, by their rows."""


def read(admin_socket: Path) -> State:
    """Asks in a process of its own: the memory of what it imports would be shared with what is measured."""
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.programs.counters", str(admin_socket)],
        check=True,
        capture_output=True,
        cwd=REPO,
        timeout=PATIENCE_S,
    ).stdout
    return msgspec.json.decode(printed, type=State)
