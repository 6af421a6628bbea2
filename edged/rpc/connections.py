"""Keeps one process from taking all the room that a Unix socket has for connections and calls.

gRPC bounds connections only in all, and tells nothing of who is at the other end. But each that it has accepted is a
descriptor of this process, of which the kernel knows who connected (unix(7), SO_PEERCRED). A process that holds more
than its share loses the newest. Callers from other process namespaces cannot be told apart, and lose none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from edged.errors import Code
from edged.events import EventLog, Severity
from edged.worker.watch import next_turn

# gRPC clients have one connection for any number of calls; applications of many parts have a few.
MOST_PER_PROCESS = 16

# So long others may be kept out by one that takes everything at once, and by one that goes on doing so.
_EVERY_S = 2
_AGAIN_S = 0.2

_CREDENTIALS = struct.Struct("3i")  # process, user, group


class Connection(msgspec.Struct, frozen=True):
    """One that was accepted."""

    socket: str
    """The name of the socket that accepted it."""
    process: int
    """Who connected; 0: somebody of another process namespace."""
    inode: int
    """Of two in one process, the larger is usually the newer."""


def surplus(found: Mapping[int, Connection], most: int) -> dict[int, Connection]:
    """Those by descriptor that go beyond the share of their process, `most` on each socket, the newest. Pure."""
    held: dict[tuple[str, int], int] = {}
    beyond: dict[int, Connection] = {}
    for descriptor, each in sorted(found.items(), key=lambda item: item[1].inode):
        key = (each.socket, each.process)
        held[key] = held.get(key, 0) + 1
        if each.process and held[key] > most:
            beyond[descriptor] = each
    return beyond


class Connections:
    """Those that this process has accepted on some of its Unix sockets."""

    def __init__(self, names: Collection[str], events: EventLog) -> None:
        """`names`: the addresses that the sockets were bound to."""
        self._names = frozenset(names)
        self._events = events
        self._known: dict[int, Connection | None] = {}
        """By the inode of a socket, so that each is looked at once; None: another kind."""
        self._told: set[int] = set()

    async def run(self) -> None:
        """Watches over them until it is cancelled."""
        while True:
            wait_s = next_turn(_EVERY_S) - asyncio.get_running_loop().time()
            await asyncio.sleep(_AGAIN_S if self._told else wait_s)
            self.trim()

    def trim(self) -> None:
        """Takes from those who hold more than their share."""
        beyond = surplus(self._found(), MOST_PER_PROCESS)
        closed: dict[int, int] = {}
        for descriptor, each in beyond.items():
            if _shut(descriptor, each.inode):
                closed[each.process] = closed.get(each.process, 0) + 1
        for process in closed.keys() - self._told:
            self._events.record(
                Severity.WARNING,
                Code.OVERLOADED,
                "connections",
                f"process {process} has more than {MOST_PER_PROCESS} connections to one socket, and lost the rest",
                process=process,
                closed=closed[process],
            )
        self._told = set(closed)

    def _found(self) -> dict[int, Connection]:
        found: dict[int, Connection] = {}
        known: dict[int, Connection | None] = {}
        for path in Path("/proc/self/fd").iterdir():
            descriptor = int(path.name)
            try:
                status = os.fstat(descriptor)
            except OSError:  # the one that read the folder, or closed meanwhile by gRPC's threads
                continue
            if not stat.S_ISSOCK(status.st_mode):
                continue
            inode = status.st_ino
            each = self._known[inode] if inode in self._known else self._look(descriptor, inode)
            known[inode] = each
            if each is not None:
                found[descriptor] = each
        self._known = known
        return found

    def _look(self, descriptor: int, inode: int) -> Connection | None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            if one.family != socket.AF_UNIX or one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            name = one.getsockname()
            if name in self._names:
                process, _, _ = _CREDENTIALS.unpack(
                    one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                )
                return Connection(name, process, inode)
        return None


def _shut(descriptor: int, inode: int) -> bool:
    """Ends a connection, which gRPC then closes; whether it was still this one."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
        if os.fstat(one.fileno()).st_ino == inode:
            one.shutdown(socket.SHUT_RDWR)
            return True
    return False
