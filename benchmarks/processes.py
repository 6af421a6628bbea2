"""Processes that are started on certain cores, and ended by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from benchmarks import procfs
from benchmarks.models import REPO

END_S = 15.0

Cores = frozenset[int]


class Plan(msgspec.Struct, frozen=True):
    """Which cores servers and load run on."""

    server: Cores
    load: Cores


def plan(*, both: bool) -> Plan:
    """The first core for servers and the last for load; `both`: servers may use every core."""
    cores = sorted(os.sched_getaffinity(0))
    return Plan(frozenset(cores) if both else frozenset(cores[:1]), frozenset(cores[-1:]))


@contextlib.contextmanager
def pinned(cores: Cores) -> Iterator[None]:
    """What is started meanwhile runs on `cores`, with all its threads and descendants."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(
    arguments: Sequence[str], cores: Cores, log: IO[bytes], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a program with its output in `log`, from the root of the repository."""
    with pinned(cores):
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=REPO,
            env={**os.environ, **(environment or {})},
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks a process to end, kills it when it does not, and kills what it leaves behind of its descendants."""
    if process.returncode is not None:  # its id may be another's by now
        return
    left = {pid: found.start_ticks for pid in procfs.tree(process.pid)[1:] if (found := procfs.stat(pid))}
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, start_ticks in left.items():
        found = procfs.stat(pid)
        if found and found.start_ticks == start_ticks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_on_sigterm() -> None:
    """SIGTERM ends this program as an exception does: what was started is ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def tail(log: Path, lines: int = 8) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def deadline(limit_s: float) -> Iterator[float]:
    """Turns of a wait: gives the seconds left until there are none."""
    end_at = time.monotonic() + limit_s
    while (left := end_at - time.monotonic()) > 0:
        yield left
