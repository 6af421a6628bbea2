"""Tells the service manager how the daemon is: sd_notify(3), over the datagram socket of $NOTIFY_SOCKET."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Mapping

# How long to wait for a manager that is busy with what it must not miss: it may be in the middle of a boot.
_PATIENCE_S = 1.0
# After what time is told again what its queue had no room for.
_AGAIN_S = 1.0
# So many states may wait: a start and some reloads. Of more, the newest say how it is.
_MOST_OWED = 8
# It listens, and cannot be told now: its queue is full, or edged is out of descriptors or memory.
_NOT_NOW = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class Notifier:
    """Says nothing where nobody listens."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL that begins an abstract address.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environment)
        self._status = ""
        self._told_status: str | None = ""
        """The last that was sent; None: it is to be sent whatever it is."""
        self._owed: deque[str] = deque(maxlen=_MOST_OWED)
        """States that the manager waits for and has not been told, in order."""
        self._owes = asyncio.Event()

    def ready(self, status: str) -> None:
        """The daemon serves, or serves again after `reloading`."""
        self._status, self._told_status = status, None
        self._owe("READY=1")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; sent when it changes."""
        self._status = text
        self._catch_up()

    def reloading(self) -> None:
        """Settings are being read again; `Type=notify-reload` wants to know since when."""
        self._owe(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, within_s: float) -> None:
        """The daemon is on its way out, and takes so long at most, whatever the unit's TimeoutStopSec= is."""
        self._status, self._told_status = status, None
        self._owe(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    async def keep_alive(self) -> None:
        """Feeds the watchdog at half its interval while the loop turns, and tells again what could not be told.

        Returns at once where there is nobody to tell.
        """
        while self._address:
            fed = not self._watchdog_s or self._send("WATCHDOG=1")
            rest_s = self._watchdog_s / 2 or None
            if self._catch_up() and fed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rest_s):
                        await self._owes.wait()
            else:
                await asyncio.sleep(min(rest_s or _AGAIN_S, _AGAIN_S))

    def _owe(self, state: str) -> None:
        self._owed.append(state)
        self._catch_up(_PATIENCE_S)

    def _catch_up(self, wait_s: float = 0.0) -> bool:
        """Tells what is not told yet; whether nothing of it is left."""
        while self._owed or self._status != self._told_status:
            lines = list(self._owed)[:1]
            if self._status != self._told_status:
                lines.append(f"STATUS={_line(self._status)}")
            if not self._send("\n".join(lines), wait_s):
                self._owes.set()
                return False
            if self._owed:
                self._owed.popleft()
            self._told_status = self._status
        self._owes.clear()
        return True

    def _send(self, message: str, wait_s: float = 0.0) -> bool:
        """False where it is worth another try. A manager that does not listen is no reason not to serve."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.settimeout(wait_s)
                manager.connect(self._address)  # only then can be waited for room in its queue
                manager.send(message.encode(errors="replace"))
        except TimeoutError:
            return False
        except OSError as error:
            return error.errno not in _NOT_NOW
        return True


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
