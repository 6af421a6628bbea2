"""Tells the service manager how the daemon is: sd_notify(3), over the datagram socket of $NOTIFY_SOCKET."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping

# How long to wait for a manager that is busy with what it must not miss: it may be in the middle of a boot.
_PATIENCE_S = 1.0


class Notifier:
    """Says nothing where nobody listens."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL that begins an abstract address.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environment)
        self._status = ""

    def ready(self, status: str) -> None:
        """The daemon serves, or serves again after `reloading`."""
        self._status = status
        self._send(f"READY=1\nSTATUS={_line(status)}", _PATIENCE_S)

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; sent when it changes."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """Settings are being read again; `Type=notify-reload` wants to know since when."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", _PATIENCE_S)

    def stopping(self, status: str, within_s: float) -> None:
        """The daemon is on its way out, and takes so long at most, whatever the unit's TimeoutStopSec= is."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within_s * 1e6)}\nSTATUS={_line(status)}", _PATIENCE_S)

    async def keep_alive(self) -> None:
        """Feeds the watchdog at half its interval while the loop turns; returns at once where there is none."""
        while self._watchdog_s:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _send(self, message: str, wait_s: float = 0.0) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # a manager that does not listen is no reason not to serve
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        ):
            manager.settimeout(wait_s)
            manager.connect(self._address)  # only then can be waited for room in its queue
            manager.send(message.encode(errors="replace"))


def _watchdog_s(environment: Mapping[str, str]) -> float:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(int(environment.get("WATCHDOG_USEC", "0")), 0) / 1e6
    except ValueError:
        return 0.0


def _line(text: str) -> str:
    """A status is one line: a second one would be read as another assignment, and a NUL spoils the message."""
    return " ".join(text.replace("\0", "\N{REPLACEMENT CHARACTER}").split())
