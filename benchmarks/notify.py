"""The other end of sd_notify(3): learns when a server says that it is ready."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from benchmarks.processes import deadline


class Manager:
    """Listens where NOTIFY_SOCKET says."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        self._socket.settimeout(0.05)
        self.environment = {"NOTIFY_SOCKET": str(path)}

    def wait_ready(self, process: subprocess.Popen[bytes], limit_s: float) -> bool:
        """Waits for READY=1; False when the process ended first, or the time did."""
        for _ in deadline(limit_s):
            try:
                if b"READY=1" in self._socket.recv(65536).splitlines():
                    return True
            except TimeoutError:
                if process.poll() is not None:
                    return False
        return False

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()


def ready() -> None:
    """Says READY=1 to whoever started this process; nothing when nobody listens."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(b"READY=1", address)
