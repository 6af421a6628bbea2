"""What a process takes, read cheaply from /proc; proc(5)."""

from __future__ import annotations

import os

import msgspec

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_S = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct, frozen=True):
    """Memory and processor time of a worker's process.

    `private`: its resident pages that are no file's and no shared memory's; what a fork still shares counts as its own.
    `own`: its resident pages but for shared memory, which has owners of its own.
    `arena`: what its arena takes, whoever wrote there.
    `charged`: what counts against its cap: what the kernel charges to its group where it has one, else own and arena.
    """

    resident_bytes: int = 0
    private_bytes: int = 0
    own_bytes: int = 0
    peak_bytes: int = 0
    cpu_s: float = 0.0
    arena_bytes: int = 0
    charged_bytes: int = 0


def resident_bytes(pid: int) -> int:
    """Its resident size, from statm: a few microseconds. 0 where there is no such process."""
    resident, _ = _statm(pid)
    return resident


def read(pid: int) -> Usage:
    """What the process tells of itself; zeros where there is no such process."""
    resident, shared = _statm(pid)
    status = _status(pid)
    return Usage(resident, resident - shared, _own(status), status.get(b"VmHWM", 0), _cpu_s(pid))


def own_bytes(pid: int) -> int:
    """Its resident size but for shared memory; 0 where there is no such process."""
    return _own(_status(pid))


def pss_bytes(pid: int) -> int:
    """Its proportional share of what it has resident; 0 where that cannot be read.

    The kernel walks all its pages for that: milliseconds, in which the process cannot map memory.
    """
    return _sizes(f"/proc/{pid}/smaps_rollup", (b"Pss",)).get(b"Pss", 0)


def _statm(pid: int) -> tuple[int, int]:
    """Resident and shared bytes. Shared pages are those of files; what a fork still shares counts as its own."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            _, resident, shared, *_ = statm.read().split()
        return int(resident) * _PAGE_BYTES, int(shared) * _PAGE_BYTES
    except (OSError, ValueError):
        return 0, 0


def _status(pid: int) -> dict[bytes, int]:
    return _sizes(f"/proc/{pid}/status", (b"VmHWM", b"RssAnon", b"RssFile"))


def _own(status: dict[bytes, int]) -> int:
    return status.get(b"RssAnon", 0) + status.get(b"RssFile", 0)


def _sizes(path: str, names: tuple[bytes, ...]) -> dict[bytes, int]:
    """Those of the sizes that stand as `Name:  123 kB` in a file, in bytes; none where it cannot be read."""
    found = {}
    try:
        with open(path, "rb") as file:
            for line in file:
                name, _, rest = line.partition(b":")
                if name in names:
                    found[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return {}
    return found


def _cpu_s(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name may hold anything; after its closing bracket stands the state, field 3.
            fields = stat.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_S
    except (OSError, ValueError, IndexError):
        return 0.0
