"""A disk that fails for a daemon of a test, below one folder: full at a write, or unable to sync.

Only the daemon itself sees it: its children get none of its environment. A full disk for all is a small tmpfs.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("faulty_disk.c")
_NEVER = 2**31 - 1

WRITES, SYNCS = 1, 2
"""What fails: whatever takes space, with ENOSPC; fsync and fdatasync, with EIO."""

COMPILER = shutil.which("gcc")


class _Control(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("last", ctypes.c_int32),
        ("done", ctypes.c_int32 * 3),
        ("folder", ctypes.c_char * 4000),
    )


def build(folder: Path) -> Path:
    """The library, made in `folder`."""
    library = folder / "faulty_disk.so"
    command = [
        COMPILER or "gcc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        str(library),
        str(_SOURCE),
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return library


class FaultyDisk:
    """The disk of one daemon, good until it is told otherwise."""

    def __init__(self, library: Path, control: Path, folder: Path) -> None:
        """`folder`: below it the disk fails."""
        control.write_bytes(bytes(ctypes.sizeof(_Control)))
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._control = _Control.from_buffer(self._map)
        self._control.folder = f"{folder}/".encode()
        self.environment = {"LD_PRELOAD": str(library), "EDGED_TEST_DISK": str(control)}

    def fail(self, kind: int, first: int, count: int = _NEVER) -> None:
        """Has the `first`-th thing of a kind since the start fail, and `count - 1` that follow."""
        self._control.first, self._control.last = first, min(first + count - 1, _NEVER)
        self._control.kind = kind

    def heal(self) -> None:
        """All is well again."""
        self._control.kind = 0

    def done(self, kind: int) -> int:
        """How many things of a kind were tried so far."""
        return int(self._control.done[kind])

    def close(self) -> None:
        """Lets the shared memory go."""
        del self._control
        self._map.close()
