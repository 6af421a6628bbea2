"""Tells the service manager how the daemon is: sd_notify(3), over the datagram socket of $NOTIFY_SOCKET."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping


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
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; sent when it changes."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """Settings are being read again; `Type=notify-reload` wants to know since when."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """The daemon is on its way out."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    async def keep_alive(self) -> None:
        """Feeds the watchdog at half its interval while the loop turns; returns at once where there is none."""
        while self._watchdog_s:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # a manager that does not listen is no reason not to serve
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager,
        ):
            manager.sendto(message.encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(environment.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0


def _line(text: str) -> str:
    """A status is one line: a second one would be read as another assignment."""
    return " ".join(text.split())
