"""Where a measurement was taken: without it, the numbers say little."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

from benchmarks.models import REPO

PACKAGES = ("edged", "grpcio", "uvloop", "onnxruntime", "numpy")


class Machine(msgspec.Struct, frozen=True):
    """The machine, and what ran on it."""

    at: str
    revision: str
    """Of the sources; it ends in + when they were changed."""
    processor: str
    cores: int
    load_average: float
    """When the measurement began: what others did here."""
    memory_mib: int
    kernel: str
    python: str
    packages: dict[str, str]


def read() -> Machine:
    """This machine, now."""
    return Machine(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        revision=_revision(),
        processor=_field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        load_average=round(os.getloadavg()[0], 2),
        memory_mib=int((_field(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) // 1024,
        kernel=platform.release(),
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in PACKAGES},
    )


def _field(path: Path, name: str) -> str:
    for line in path.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _revision() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
            cwd=REPO,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
