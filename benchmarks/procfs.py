"""What the kernel tells of a process and its descendants. `proc` is /proc, or a folder laid out like it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Thread = tuple[int, int]
"""The id of a process, and of a thread of it."""


class Stat(msgspec.Struct, frozen=True):
    """/proc/PID/stat, as far as it is needed. Times in ticks; those of children are of the ended ones, waited for."""

    command: str
    parent: int
    own_ticks: int
    children_ticks: int
    start_ticks: int


class Snapshot(msgspec.Struct, frozen=True):
    """What a process and its descendants have used since they began."""

    cpu_s: dict[int, float]
    """User and system time of each process, all its threads, by process."""
    ended_s: float
    """The same of the descendants that have ended."""
    switches: dict[Thread, tuple[int, int]]
    """Context switches by thread: voluntary and not."""
    running_ns: dict[Thread, int]
    """Time on a core by thread: finer than ticks, but lost when the thread ends."""


class Spent(msgspec.Struct, frozen=True):
    """What was used between two snapshots."""

    cpu_s: float
    """User and system time of all, those that ended included, to the kernel's tick for each process."""
    cpu_s_of: dict[int, float]
    """The same by process, of those that are still there."""
    switches: int
    voluntary: dict[Thread, int]
    running_ns: dict[Thread, int]


class Memory(msgspec.Struct, frozen=True):
    """Bytes of memory of one process."""

    pss: int
    """Its own pages, and its share of those that it has in common with others."""
    private: int
    """Its own pages: what would be given back if it ended."""


def stat(pid: int, proc: Path = PROC) -> Stat | None:
    """None when there is no such process."""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    before, _, after = text.rpartition(")")
    fields = after.split()  # from the third field of proc(5) on: the name before them may hold anything
    return Stat(
        command=before.partition("(")[2],
        parent=int(fields[1]),
        own_ticks=int(fields[11]) + int(fields[12]),
        children_ticks=int(fields[13]) + int(fields[14]),
        start_ticks=int(fields[19]),
    )


def tree(root: int, proc: Path = PROC) -> list[int]:
    """A process and its living descendants, parents before children."""
    children: dict[int, list[int]] = {}
    for folder in proc.iterdir():
        if folder.name.isdecimal() and (found := stat(int(folder.name), proc)):
            children.setdefault(found.parent, []).append(int(folder.name))
    members = [root]
    for member in members:
        members += sorted(children.get(member, ()))
    return members


def snapshot(root: int, proc: Path = PROC) -> Snapshot:
    """What the tree below `root` has used so far.

    A descendant that ends is counted on in `ended_s` once its parent has waited for it; a parent that never waits,
    or an orphan that is adopted from outside the tree, would be lost.
    """
    cpu_s: dict[int, float] = {}
    ended_ticks = 0
    switches: dict[Thread, tuple[int, int]] = {}
    running_ns: dict[Thread, int] = {}
    for pid in tree(root, proc):
        found = stat(pid, proc)
        if found is None:
            continue
        cpu_s[pid] = found.own_ticks / TICKS_PER_S
        ended_ticks += found.children_ticks
        for thread in _threads(pid, proc):
            folder = proc / str(pid) / "task" / str(thread)
            try:
                status, schedstat = (folder / "status").read_text(), (folder / "schedstat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            switches[pid, thread] = _switches(status)
            running_ns[pid, thread] = int(schedstat.split()[0])
    return Snapshot(cpu_s, ended_ticks / TICKS_PER_S, switches, running_ns)


def spent(before: Snapshot, after: Snapshot) -> Spent:
    """The difference of two snapshots. What a thread used that began between them counts whole."""
    cpu_s_of = {pid: used - before.cpu_s.get(pid, 0.0) for pid, used in after.cpu_s.items()}
    total = sum(after.cpu_s.values()) + after.ended_s - sum(before.cpu_s.values()) - before.ended_s
    none = (0, 0)
    return Spent(
        cpu_s=total,
        cpu_s_of=cpu_s_of,
        switches=sum(sum(count) - sum(before.switches.get(thread, none)) for thread, count in after.switches.items()),
        voluntary={thread: count[0] - before.switches.get(thread, none)[0] for thread, count in after.switches.items()},
        running_ns={thread: ran - before.running_ns.get(thread, 0) for thread, ran in after.running_ns.items()},
    )


def memories(pids: Iterable[int], proc: Path = PROC) -> dict[int, Memory]:
    """Of those processes that are there."""
    return {pid: found for pid in pids if (found := _memory(pid, proc))}


def _memory(pid: int, proc: Path) -> Memory | None:
    try:
        text = (proc / str(pid) / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            found[name] = 1024 * int(rest.split()[0])
    return Memory(pss=found["Pss"], private=found["Private_Clean"] + found["Private_Dirty"])


def command_line(pid: int, proc: Path = PROC) -> str:
    """The arguments that a process was started with and its short name, in one line; empty when it is gone."""
    try:
        folder = proc / str(pid)
        arguments = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{arguments.strip()} ({(folder / 'comm').read_text(errors='replace').strip()})"
    except (FileNotFoundError, ProcessLookupError):
        return ""


def thread_name(thread: Thread, proc: Path = PROC) -> str:
    """The short name of a thread; empty when it is gone."""
    pid, number = thread
    try:
        return (proc / str(pid) / "task" / str(number) / "comm").read_text(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _threads(pid: int, proc: Path) -> Iterable[int]:
    try:
        return sorted(int(folder.name) for folder in (proc / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return ()


def _switches(status: str) -> tuple[int, int]:
    found = {}
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        if name.endswith("_ctxt_switches"):
            found[name] = int(rest)
    return found["voluntary_ctxt_switches"], found["nonvoluntary_ctxt_switches"]
