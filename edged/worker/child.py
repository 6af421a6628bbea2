"""A child process held by descriptor: no process id that can have been used again, no signal handler."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence

import msgspec

# How long a process may take to go after SIGKILL before it is given up (uninterruptible sleep in a driver).
REAP_S = 5.0


# The ids of the children that a Child stands for and that are not reaped yet.
_held: set[int] = set()


class Exit(msgspec.Struct, frozen=True):
    """How a process ended.

    `lost`: it did not; it is still there after SIGKILL, with all that it holds. `by_lost_memory`: by SIGBUS, since
    memory that it used was not there any more.
    """

    text: str
    lost: bool = False
    by_lost_memory: bool = False


class Child:
    """A process that this one reaps. `ended` always resolves: to how it ended, or that it is lost."""

    def __init__(self, pid: int) -> None:
        """`pid` is a child of this process, alive or not yet reaped. Raises OSError when it is neither."""
        loop = asyncio.get_running_loop()
        self.pid = pid
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self.reaped: asyncio.Future[None] = loop.create_future()
        """Done when it is no more: with `ended`, but for one that is lost."""
        self._pidfd = os.pidfd_open(pid)
        loop.add_reader(self._pidfd, self._reap)
        _held.add(pid)

    def kill(self) -> None:
        """Sends SIGKILL; `ended` follows, within REAP_S."""
        if not self.ended.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            asyncio.get_running_loop().call_later(REAP_S, self._lose)

    async def stop(self, grace_s: float) -> Exit:
        """Waits `grace_s` seconds for an end that is on its way, then kills."""
        await asyncio.wait([self.ended], timeout=grace_s)
        self.kill()
        return await asyncio.shield(self.ended)

    def _reap(self) -> None:
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        _held.discard(self.pid)
        if not self.ended.done():  # else it was given up, and has gone after all
            exited = result.si_code == os.CLD_EXITED
            status = result.si_status
            text = f"exit status {status}" if exited else f"killed by {_signal_name(status)}"
            self.ended.set_result(Exit(text, by_lost_memory=not exited and status == signal.SIGBUS))
        self.reaped.set_result(None)

    def _lose(self) -> None:
        if not self.ended.done():
            self.ended.set_result(Exit(f"lost: still there {REAP_S:g} s after SIGKILL", lost=True))


def is_held(pid: int) -> bool:
    """Whether a `Child` stands for this child, so that somebody reaps it; nobody knows of the others."""
    return pid in _held


def held() -> list[int]:
    """The ids of all of these."""
    return list(_held)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def spawn(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    keep: Sequence[int],
    output: int | None = None,
) -> Child:
    """Starts `python -I -B -m module arguments…` with the descriptors `keep` and no other.

    It leaves no compiled code behind. Its standard input is empty; what it prints goes to `output` or, with its errors,
    where the daemon's own goes.
    Raises OSError.
    """
    command = [sys.executable, "-I", "-B", "-m", module, *arguments]
    files: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
    ]
    if output is not None:
        files.append((os.POSIX_SPAWN_DUP2, output, 1))
    for descriptor in keep:
        os.set_inheritable(descriptor, True)
    try:
        pid = os.posix_spawn(
            sys.executable,
            command,
            dict(environment),
            file_actions=files,
            setsigmask=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),  # until the child ignores them
        )
    finally:
        for descriptor in keep:
            os.set_inheritable(descriptor, False)
    try:
        return Child(pid)
    except OSError:  # no descriptor was left to hold it by
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
