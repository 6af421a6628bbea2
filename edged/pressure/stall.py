"""Pressure stall triggers: the kernel says when tasks have waited too long.

Nothing is polled but what no trigger can be had of; its averages are read whenever anything is looked at.

A line such as `some 200000 2000000` (µs of stall in a window of µs) is written to a pressure file, which then gives
POLLPRI at most once in a window (Documentation/accounting/psi.rst). Event loops know no POLLPRI, so an epoll
descriptor that holds the file stands in for it: it is readable when the trigger fires. Each trigger has one of its own,
since looking whether it fired already takes the event away (psi_trigger_poll in kernel/sched/psi.c), so that its being
readable is all that is ever learned. systemd's $MEMORY_PRESSURE_WATCH names such a file, or a FIFO or socket that
becomes readable (https://systemd.io/MEMORY_PRESSURE/).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import select
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from edged.pressure import files
from edged.pressure.readings import Stall
from edged.pressure.sensors_memory import Group
from edged.worker import cgroup

_RESOURCES = ("cpu", "memory", "io")
# Without CAP_SYS_RESOURCE windows must be multiples of 2 s.
_WINDOW_US = 2_000_000
# The stall in a window, in µs. Processors are busy where inference runs: only a crowd of others counts.
_SYSTEM = (("memory.some", 200_000), ("memory.full", 200_000), ("io.some", 1_000_000), ("cpu.some", 1_600_000))
# That some of edged's own wait for a processor is usual at work; that all do is for others, or for a quota.
_GROUP = (("memory.some", 200_000), ("memory.full", 200_000), ("io.some", 1_000_000), ("cpu.full", 1_000_000))

Kind = tuple[str, Path]
"""A kind of stalls, as `cpu.some`, and the pressure file that tells of it."""


class Wanted(msgspec.Struct, frozen=True):
    """A trigger: its name, the file, and what is written to it; nothing where the file needs none."""

    name: str
    path: Path
    line: bytes


def wanted(root: Path, groups: list[Group], environment: Mapping[str, str]) -> list[Wanted]:
    """The system's triggers, those of edged's own version 2 group, and what systemd asks to watch."""
    found = [_trigger(name, root / "proc/pressure" / name.partition(".")[0], stall_us) for name, stall_us in _SYSTEM]
    if group := _own([group.folder for group in groups if group.version == 2]):
        own = ((name, group / f"{name.partition('.')[0]}.pressure", stall_us) for name, stall_us in _GROUP)
        found += [_trigger(name, path, stall_us) for name, path, stall_us in own if files.exists(path)]
    watch = environment.get("MEMORY_PRESSURE_WATCH", "")
    if watch and watch != "/dev/null":
        with contextlib.suppress(ValueError):  # no base64, or no ASCII
            line = base64.b64decode(environment.get("MEMORY_PRESSURE_WRITE", ""), validate=True)
            found.append(Wanted("memory.watch", root / watch.lstrip("/"), line))
    return found


def _own(within: list[Path]) -> Path | None:
    """The group that holds edged and all its workers: the one above the innermost, where that is delegated."""
    return next((group for group in within[1:2] if cgroup.is_delegated(group)), within[0] if within else None)


def system(root: Path) -> list[Kind]:
    """All that the kernel keeps of the whole machine."""
    return [(f"{name}.{kind}", root / "proc/pressure" / name) for name in _RESOURCES for kind in ("some", "full")]


def averages(kinds: Iterable[Kind]) -> dict[str, Stall]:
    """The shares of the last 10 s, by resource; the highest where several files tell of the same."""
    found: dict[str, Stall] = {}
    for name, path in kinds:
        resource, _, kind = name.partition(".")
        for share in _shares(path, kind):
            before = found.get(resource, Stall())
            some = max(before.some_percent, share if kind == "some" else 0.0)
            full = max(before.full_percent, share if kind == "full" else 0.0)
            found[resource] = Stall(some, full)
    return found


def _shares(path: Path, kind: str) -> Iterator[float]:
    """One, or none where the file does not tell."""
    for line in (files.text(path) or "").splitlines():
        if line.startswith(f"{kind} "):
            with contextlib.suppress(ValueError):
                yield float(line.partition("avg10=")[2].partition(" ")[0])


def _trigger(name: str, path: Path, stall_us: int) -> Wanted:
    kind = name.partition(".")[2]
    # The kernel takes the last byte for the end of the line, whatever it is.
    return Wanted(name, path, f"{kind} {stall_us} {_WINDOW_US}\0".encode())


class Triggers:
    """Armed triggers, on the running event loop."""

    def __init__(self, fired: Callable[[str], None]) -> None:
        self._fired = fired
        self._open: dict[int, tuple[str, Callable[[], None]]] = {}
        self.failed: dict[str, str] = {}
        """By name, why a trigger could not be armed: an old kernel, no permission."""
        self.silent: set[Kind] = set()
        """What none of them tells of."""

    @property
    def armed(self) -> frozenset[str]:
        """The names of those that are."""
        return frozenset(name for name, _ in self._open.values())

    def arm(self, trigger: Wanted) -> None:
        """Arms one; where that fails, `failed` says why."""
        try:
            descriptor, close = _open(trigger)
        except (OSError, ValueError) as error:
            self.silent.add((trigger.name, trigger.path))
            self.failed.setdefault(trigger.name, f"{trigger.path}: {getattr(error, 'strerror', None) or error}")
            return
        self._open[descriptor] = (trigger.name, close)
        asyncio.get_running_loop().add_reader(descriptor, self._readable, descriptor)

    def close(self) -> None:
        """Disarms all."""
        for descriptor in list(self._open):
            self._drop(descriptor)

    def _readable(self, descriptor: int) -> None:
        name, _ = self._open[descriptor]
        if _has_ended(descriptor):
            self._drop(descriptor)
            self.failed[name] = "its control group is gone"
            return
        self._fired(name)

    def _drop(self, descriptor: int) -> None:
        _, close = self._open.pop(descriptor)
        asyncio.get_running_loop().remove_reader(descriptor)
        close()


def _open(trigger: Wanted) -> tuple[int, Callable[[], None]]:
    """A descriptor that is readable when the trigger fires, and what closes it. Raises OSError."""
    mode = trigger.path.stat().st_mode
    if stat.S_ISSOCK(mode):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(trigger.path))
            if trigger.line:
                connection.send(trigger.line)
        except BaseException:
            connection.close()
            raise
        return connection.fileno(), connection.close
    file = os.open(trigger.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if trigger.line:
            os.write(file, trigger.line)
        if stat.S_ISFIFO(mode):
            return file, lambda: os.close(file)
        epoll = select.epoll()
        epoll.register(file, select.EPOLLPRI)
    except BaseException:
        os.close(file)
        raise

    def close() -> None:
        epoll.close()
        os.close(file)

    return epoll.fileno(), close


def _has_ended(descriptor: int) -> bool:
    """Takes away what is to be read; True where nothing will ever come again."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        try:
            return not os.read(descriptor, 4096)
        except BlockingIOError:
            return False
        except OSError:
            return True
    epoll = select.epoll.fromfd(os.dup(descriptor))
    try:
        return any(events & select.EPOLLERR for _, events in epoll.poll(0))
    finally:
        epoll.close()
