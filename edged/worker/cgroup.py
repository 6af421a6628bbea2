"""Control groups for workers, where systemd has delegated the daemon's own to it; cgroup v2.

With `Delegate=` and `DelegateSubgroup=` the daemon starts below a group that is its own to divide:

    edged.service/      delegated, and without processes, as a group must be whose children have controllers
      front/            the daemon and the templates
      worker-812-1/     one worker, and whatever it forks

Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst; systemd's docs/CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
from pathlib import Path

# What systemd marks a delegated group with, for all to read.
_DELEGATED = "user.delegate"

_PREFIX = "worker-"

# Processes and threads that a worker may have: more than any engine starts, and few beside those of the device.
_MAX_TASKS = 1024

# What a worker forked takes a moment to go; what is still there after the last of these goes with a later worker.
_REMOVE_AGAIN_S = (0.01, 0.05, 0.25, 1.0, 5.0)


class Group:
    """The group of one worker, whose memory is bounded by `memory_bytes`."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self.folder = folder
        self._memory_bytes = memory_bytes

    def set(self, name: str, value: int) -> None:
        """Writes one of its files. Raises OSError."""
        (self.folder / name).write_text(str(value), encoding="ascii")

    def kill(self) -> None:
        """Ends all its processes, those included that left their parents and their sessions."""
        with contextlib.suppress(OSError):  # it has gone; or a kernel before 5.14, where the worker is killed alone
            self.set("cgroup.kill", 1)

    @property
    def taken_bytes(self) -> int:
        """What is charged to it now; 0 where that cannot be known."""
        try:
            return int((self.folder / "memory.current").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def death(self) -> str:
        """Why the kernel ended processes of it for want of memory, in words; empty where it did not."""
        try:
            lines = (self.folder / "memory.events").read_text(encoding="ascii").splitlines()
            count = {name: int(number) for name, number in (line.split() for line in lines)}
        except (OSError, ValueError):
            return ""
        if not count.get("oom_kill") and not count.get("oom_group_kill"):
            return ""
        cap = f"its cap of {self._memory_bytes // 2**20} MiB"
        if count.get("oom"):  # counted where the bound that was reached stands, and above it
            return f"the kernel ended the worker, which had used up the memory of {cap}"
        return f"the kernel ended the worker within {cap}: the device, or edged as a whole, was out of memory"


class Groups:
    """Where the groups of workers are made. `why_not` says why none are; empty where they are."""

    def __init__(self, folder: Path | None, why_not: str = "") -> None:
        """Ends and removes what an earlier daemon left in `folder`, the delegated group."""
        self.why_not = why_not
        self._folder = folder
        self._numbers = itertools.count(1)
        self._leftovers = set(folder.glob(f"{_PREFIX}*")) if folder else set()
        for leftover in self._leftovers:
            Group(leftover, 0).kill()
        self._remove_leftovers()

    @classmethod
    def find(cls, root: Path = Path("/")) -> Groups:
        """Those of this process, where they are delegated, and with their controllers switched on.

        `root` is the folder that holds /proc and /sys.
        """
        try:
            return cls(_delegated(root))
        except LookupError as reason:
            return cls(None, str(reason.args[0]))
        except OSError as error:
            return cls(None, in_words(error))

    def place(self, pid: int, memory_bytes: int) -> Group:
        """Moves a process to a group of its own. Memory that it has touched until now stays charged where it was.

        It may block for some milliseconds. Raises OSError; there is then no group, and none where there is a `why_not`.
        """
        if self._folder is None:
            raise OSError(errno.ENOTSUP, self.why_not)
        self._remove_leftovers()
        group = Group(self._folder / f"{_PREFIX}{os.getpid()}-{next(self._numbers)}", memory_bytes)
        group.folder.mkdir()
        try:
            group.set("memory.max", memory_bytes)
            group.set("memory.oom.group", 1)
            with contextlib.suppress(OSError):  # a kernel without swap has none
                group.set("memory.swap.max", 0)
            with contextlib.suppress(OSError):  # the controller is not delegated
                group.set("pids.max", _MAX_TASKS)
            group.set("cgroup.procs", pid)
        except OSError:
            self._leftovers.add(group.folder)
            self._remove_leftovers()
            raise
        return group

    def remove(self, group: Group) -> None:
        """Ends what is left in a group and removes it, as soon as that is possible."""
        group.kill()
        self._leftovers.add(group.folder)
        self._remove(group.folder, list(_REMOVE_AGAIN_S))

    def _remove(self, folder: Path, again_s: list[float]) -> None:
        if folder in self._leftovers and not self._removed(folder) and again_s:
            asyncio.get_running_loop().call_later(again_s.pop(0), self._remove, folder, again_s)

    def _remove_leftovers(self) -> None:
        for leftover in list(self._leftovers):
            self._removed(leftover)

    def _removed(self, folder: Path) -> bool:
        """Removes a group with those below it; False while one of them has processes."""
        try:
            for below, _, _ in os.walk(folder, topdown=False):
                Path(below).rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self._leftovers.discard(folder)
        return True


def is_delegated(folder: Path) -> bool:
    """Whether systemd has given this group away, to be divided."""
    try:
        return os.getxattr(folder, _DELEGATED) == b"1"
    except OSError:
        return False


def _delegated(root: Path) -> Path:
    """The group that is this process's to divide, with its controllers on.

    Raises OSError, or LookupError with the reason where there is none.
    """
    mount = root / "sys/fs/cgroup"
    if not (mount / "cgroup.controllers").exists():
        raise LookupError("no cgroup v2")
    lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    if not own or ".." in own.split("/"):
        raise LookupError("not in a control group of its own")
    inner = (mount / own).parent
    if not is_delegated(inner):
        raise LookupError("no delegated control group; Delegate= and DelegateSubgroup= of the unit give one")
    offered = _words(inner / "cgroup.controllers")
    if "memory" not in offered:
        raise LookupError("no delegated memory controller")
    control = inner / "cgroup.subtree_control"
    on = _words(control)
    for controller in ("memory", "pids"):
        if controller in offered and controller not in on:
            control.write_text(f"+{controller}", encoding="ascii")
    return inner


def in_words(error: OSError) -> str:
    """What failed, and with which file where that is known."""
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split()


# For workers of a process that has no groups to give, such as `edgectl`.
NONE = Groups(None, "not started by the daemon")
