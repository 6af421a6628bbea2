"""What each worker takes: its share of memory and its processor time.

Sources: /proc/PID/smaps_rollup and /proc/PID/stat (proc(5)). Pss counts a page shared by n processes as 1/n of one; the
kernel walks the page tables for it, so it is asked rarely.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edged.pressure import files

_TICKS_S = os.sysconf("SC_CLK_TCK")


class Taken(msgspec.Struct, frozen=True):
    """None for what cannot be read, as of a process that has ended."""

    pss_bytes: int | None
    cpu_s: float | None


def read(root: Path, pid: int) -> Taken:
    """What the process `pid` takes."""
    return Taken(_pss_bytes(root / f"proc/{pid}/smaps_rollup"), _cpu_s(root / f"proc/{pid}/stat"))


def _pss_bytes(path: Path) -> int | None:
    for line in (files.text(path) or "").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def _cpu_s(path: Path) -> float | None:
    # The name may hold anything; after its closing bracket stands the state, field 3.
    fields = (files.text(path) or "").rpartition(")")[2].split()
    try:
        return (int(fields[11]) + int(fields[12])) / _TICKS_S
    except (IndexError, ValueError):
        return None
