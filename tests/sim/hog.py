"""A process that puts memory under real pressure: in a small control group it reads a file that does not fit, again
and again, so that the kernel must take pages away and bring them back. One that only allocates would be ended by the
kernel with little pressure before.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/memory")

_READ = """
import os, sys
path, group = sys.argv[1:]
with open(group + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
file = os.open(path, os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
print("reads", flush=True)
while True:
    os.lseek(file, 0, os.SEEK_SET)
    while os.read(file, 1 << 20):
        pass
"""


class Hog:
    """Reads `size_mib` in a group of `limit_mib`, version 1."""

    def __init__(self, folder: Path, size_mib: int = 96, limit_mib: int = 24) -> None:
        self._file = folder / "hog"
        self._group = _V1 / f"edged-hog-{os.getpid()}"
        self._size_mib, self._limit_mib = size_mib, limit_mib
        self._processes: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def possible() -> bool:
        """Groups can be made here."""
        return os.access(_V1, os.W_OK) and (_V1 / "memory.limit_in_bytes").exists()

    def press(self) -> None:
        """Begins."""
        with self._file.open("wb") as file:
            for _ in range(self._size_mib):
                file.write(os.urandom(2**20))
            file.flush()
            os.fsync(file.fileno())
        self._group.mkdir()
        (self._group / "memory.limit_in_bytes").write_text(str(self._limit_mib * 2**20))
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", _READ, str(self._file), str(self._group)], stdout=subprocess.PIPE
            )
            self._processes.append(process)
            assert process.stdout is not None
            process.stdout.readline()

    def relieve(self) -> None:
        """Ends, and leaves nothing."""
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._processes.clear()
        for _ in range(100):
            with contextlib.suppress(OSError):  # busy until the last process is gone from it
                if self._group.exists():
                    self._group.rmdir()
                break
            time.sleep(0.05)
        self._file.unlink(missing_ok=True)
