"""The memory that is left: of the machine, and of every control group that this process is in.

Sources: /proc/meminfo (proc_meminfo(5)); /proc/self/cgroup and /proc/self/mountinfo (cgroups(7));
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from edged.pressure import files
from edged.pressure.readings import Memory


class Group(msgspec.Struct, frozen=True):
    """A control group with a memory controller: its folder, and which version it is of."""

    folder: Path
    version: int


def groups(root: Path) -> list[Group]:
    """Those that this process is in, the innermost first, up to where each hierarchy is mounted."""
    mounts = dict(_mounts(root))
    found = []
    for line in (files.text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if not controllers else 1
        if (version == 1 and "memory" not in controllers.split(",")) or version not in mounts:
            continue
        top, inside = mounts[version]
        below = path.removeprefix(inside.rstrip("/")).strip("/")  # as seen from what is mounted here
        folder = top / below if below and files.exists(top / below) else top
        while True:
            found.append(Group(folder, version))
            if folder == top:
                break
            folder = folder.parent
    return found


def _mounts(root: Path) -> Iterator[tuple[int, tuple[Path, str]]]:
    """Where version 1's memory controller and version 2 are mounted, and what of the hierarchy is to be seen there."""
    for line in (files.text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        place = root / fields[4].lstrip("/")
        if kinds[0] == "cgroup2":
            yield 2, (place, fields[3])
        elif kinds[0] == "cgroup" and "memory" in kinds[2].split(","):
            yield 1, (place, fields[3])


def read(root: Path, within: list[Group]) -> Memory | None:
    """The tightest of all: where least is left. None where nothing says anything."""
    found = [each for each in (_machine(root), *map(_group, within)) if each]
    if not found:
        return None
    tightest = min(found, key=lambda each: each.available_bytes)
    return msgspec.structs.replace(tightest, oom_kills=_oom_kills(within))


def _machine(root: Path) -> Memory | None:
    values = {}
    for line in (files.text(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        kib = files.whole(rest.strip().partition(" ")[0])
        if name in ("MemTotal", "MemAvailable") and kib is not None:
            values[name] = kib * 1024
    if len(values) < 2:
        return None
    return Memory(values["MemTotal"], values["MemAvailable"])


def _group(group: Group) -> Memory | None:
    """None where it has no limit. What it could give back at once, files not used lately, counts as left."""
    if group.version == 2:
        limits = [files.number(group.folder / name) for name in ("memory.max", "memory.high")]
        used = files.number(group.folder / "memory.current")
        idle = files.table(group.folder / "memory.stat").get("inactive_file", 0)
    else:
        limits = [files.number(group.folder / "memory.limit_in_bytes")]
        used = files.number(group.folder / "memory.usage_in_bytes")
        idle = files.table(group.folder / "memory.stat").get("total_inactive_file", 0)
    known = [limit for limit in limits if limit is not None and limit < 2**60]  # version 1's word for none
    if not known or used is None:
        return None
    limit = int(min(known))
    return Memory(limit, max(limit - max(int(used) - idle, 0), 0))


def _oom_kills(within: list[Group]) -> int:
    """Those in the innermost group of each version, and how often the limit of a group around it was the reason.

    A worker is in a group beside the innermost: that it is ended at its own cap is no shortage of the device's.
    """
    innermost: dict[int, Group] = {}
    count = 0
    for group in within:
        if innermost.setdefault(group.version, group) is group:
            name = "memory.oom_control" if group.version == 1 else "memory.events"
            count += files.table(group.folder / name).get("oom_kill", 0)
        else:  # version 2 alone has it
            count += files.table(group.folder / "memory.events.local").get("oom", 0)
    return count
