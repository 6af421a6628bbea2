"""Free space and inodes of the state folder, and what this process and its children have written.

Sources: statvfs(3); /proc/PID/io (proc_pid_io(5)), whose `write_bytes` counts what was sent to disks. That of a child
is added to its parent's when it is reaped (wait_task_zombie in kernel/exit.c).
"""

from __future__ import annotations

import os
from pathlib import Path

from edged.pressure import files
from edged.pressure.readings import Storage
from edged.worker import child


def read(root: Path, state: Path) -> Storage | None:
    """None where the folder cannot be reached. Space that only root may use is not counted as free."""
    try:
        found = os.statvfs(state)
    except OSError:
        return None
    return Storage(
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        total_inodes=found.f_files,
        free_inodes=found.f_favail,
        writable=not found.f_flag & os.ST_RDONLY,
        written_bytes=_written(root),
    )


def _written(root: Path) -> int | None:
    """By this process, the children it has reaped, and those that are at work."""
    own, *others = (_write_bytes(root / f"proc/{pid}/io") for pid in ("self", *child.held()))
    return None if own is None else own + sum(each or 0 for each in others)


def _write_bytes(path: Path) -> int | None:
    for line in (files.text(path) or "").splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return files.whole(value)
    return None
