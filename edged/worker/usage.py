"""What a process takes, read cheaply from /proc; proc(5)."""

from __future__ import annotations

import os

import msgspec

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_S = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct, frozen=True):
    """Memory and processor time of a process. `private`: what no other process shares with it."""

    resident_bytes: int = 0
    private_bytes: int = 0
    peak_bytes: int = 0
    cpu_s: float = 0.0


def resident_bytes(pid: int, others_bytes: int = 0) -> int:
    """Its resident size, from statm: a few microseconds. 0 where there is no such process.

    Without what it shares, up to `others_bytes`: so much that it has mapped is the memory of others.
    """
    resident, shared = _statm(pid)
    return resident - min(shared, others_bytes)


def read(pid: int) -> Usage:
    """All of it; zeros where there is no such process."""
    resident, shared = _statm(pid)
    return Usage(resident, resident - shared, _peak_bytes(pid), _cpu_s(pid))


def _statm(pid: int) -> tuple[int, int]:
    """Resident and shared bytes. Shared pages are those of files; what a fork still shares counts as its own."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            _, resident, shared, *_ = statm.read().split()
        return int(resident) * _PAGE_BYTES, int(shared) * _PAGE_BYTES
    except (OSError, ValueError):
        return 0, 0


def _peak_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def _cpu_s(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name may hold anything; after its closing bracket stands the state, field 3.
            fields = stat.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_S
    except (OSError, ValueError, IndexError):
        return 0.0
