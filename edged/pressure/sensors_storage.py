"""Free space and inodes of the state folder, and what this process has written.

Sources: statvfs(3); /proc/self/io (proc_pid_io(5)), whose `write_bytes` counts what was sent to disks.
"""

from __future__ import annotations

import os
from pathlib import Path

from edged.pressure import files
from edged.pressure.readings import Storage


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
    for line in (files.text(root / "proc/self/io") or "").splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes" and value.isdecimal():
            return int(value)
    return None
