"""A worker as the front sees it: started, asked, timed, ended and reaped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from edged import clock
from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES
from edged.worker.link import Link
from edged.worker.messages import Answered, Compared, Failed, FromWorker, Infer, Load, Loaded, RunGolden

# How long a process may take to go after SIGKILL before it is given up (uninterruptible sleep in a driver).
_REAP_S = 5.0

_Message = TypeVar("_Message")


class Limits(msgspec.Struct, frozen=True):
    """How long each thing that a worker does may take."""

    load_s: float
    first_inference_s: float
    inference_s: float

    def describe(self) -> str:
        """In words, for status."""
        return f"load {self.load_s:g} s, first {self.first_inference_s:g} s, inference {self.inference_s:g} s"


class Usage(msgspec.Struct, frozen=True):
    """Memory of a process, from /proc/PID/status."""

    resident_bytes: int = 0
    peak_bytes: int = 0


class Worker:
    """One process with one loaded variant. Made by `start`; `ended` resolves, always, to how it ended, in words."""

    def __init__(self, pid: int, pidfd: int, link: Link, limits: Limits) -> None:
        self.pid = pid
        self.started_at = clock.wall()
        self.loaded = Loaded(0.0, 0.0)
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pidfd = pidfd
        self._link = link
        self.limits = limits
        self._verdict = ""
        asyncio.get_running_loop().add_reader(pidfd, self._reap)

    async def infer(self, batch: Infer, body: Sequence[bytes | memoryview]) -> tuple[Answered, memoryview]:
        """Runs one batch. Raises EdgedError: the worker's own, worker_crashed, or worker_hang after its time limit."""
        message, reply = await self._ask(batch, body, self.limits.inference_s, "an inference")
        return _expect(message, Answered), reply

    async def golden(self, golden: RunGolden) -> Compared:
        """Runs a golden. Raises as `infer` does."""
        message, _ = await self._ask(golden, (), self.limits.first_inference_s, "a golden")
        return _expect(message, Compared)

    async def load(self, load: Load) -> None:
        """Loads and warms up; asked once. Raises EdgedError with the reason."""
        limit_s = self.limits.load_s + self.limits.first_inference_s
        message, _ = await self._ask(load, (), limit_s, "loading")
        self.loaded = _expect(message, Loaded)

    async def _ask(
        self, message: Load | Infer | RunGolden, body: Sequence[bytes | memoryview], limit_s: float, what: str
    ) -> tuple[FromWorker, memoryview]:
        reply = self._link.send(message, body)
        timer = asyncio.get_running_loop().call_later(limit_s, self._hang, f"{what} took longer than {limit_s:g} s")
        try:
            return await reply
        except EdgedError as error:
            if self._verdict:
                raise EdgedError(Code.WORKER_HANG, self._verdict) from error
            how = await asyncio.shield(self.ended)
            raise EdgedError(Code.WORKER_CRASHED, f"the worker ended while it was asked for {what}: {how}") from error
        finally:
            timer.cancel()

    def _hang(self, verdict: str) -> None:
        self._verdict = verdict
        self.kill()

    def kill(self) -> None:
        """Sends SIGKILL; `ended` follows."""
        if not self.ended.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            asyncio.get_running_loop().call_later(_REAP_S, self._lose)

    async def stop(self, grace_s: float) -> str:
        """Ends the link, waits `grace_s` seconds, then kills. Says how the process ended."""
        self._link.close()
        await asyncio.wait([self.ended], timeout=grace_s)
        self.kill()
        return await asyncio.shield(self.ended)

    def usage(self) -> Usage:
        """What it takes now and took at most; zeros once it has ended."""
        if self.ended.done():  # another process may have its id by now
            return Usage()
        found = {}
        try:
            with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as status:
                for line in status:
                    key, _, rest = line.partition(":")
                    if key in ("VmRSS", "VmHWM"):
                        found[key] = int(rest.split()[0]) * 1024
        except (OSError, ValueError):
            return Usage()
        return Usage(found.get("VmRSS", 0), found.get("VmHWM", 0))

    def _reap(self) -> None:
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        if result.si_code == os.CLD_EXITED:
            how = f"exit status {result.si_status}"
        else:
            how = f"killed by {_signal_name(result.si_status)}"
        self._close(f"{self._verdict} ({how})" if self._verdict else how)

    def _lose(self) -> None:
        self._close(f"lost: still there {_REAP_S:g} s after SIGKILL")

    def _close(self, how: str) -> None:
        if not self.ended.done():
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._link.close()
            self.ended.set_result(how)


async def start(load: Load, limits: Limits) -> Worker:
    """Starts a worker and has it load. Raises EdgedError with the reason; no process is then left behind."""
    front, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with child:
        front.setblocking(False)
        try:
            _, link = await asyncio.get_running_loop().create_unix_connection(Link, sock=front)
        except BaseException:
            front.close()
            raise
        try:
            pid, pidfd = _spawn(child, load.runtime)
        except BaseException:
            link.close()
            raise
    worker = Worker(pid, pidfd, link, limits)  # nothing has been awaited since there is a process to look after
    try:
        await worker.load(load)
    except BaseException:
        worker.kill()
        await asyncio.shield(worker.ended)
        raise
    return worker


def _spawn(link: socket.socket, runtime: str) -> tuple[int, int]:
    """A new process at the other end of `link`, and a descriptor of it."""
    arguments = [sys.executable, "-I", "-m", "edged.worker.host", str(link.fileno()), str(os.getpid())]
    files = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    link.set_inheritable(True)
    pid = os.posix_spawn(
        sys.executable,
        arguments,
        _environment(runtime),
        file_actions=files,
        setsigmask=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),  # until the worker ignores them
    )
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {number}"


def _environment(runtime: str) -> dict[str, str]:
    """A worker's environment: nothing of the daemon's own, which may hold credentials' paths or a proxy."""
    engine = ENGINES.get(runtime)
    passed_on = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        **passed_on,
        **(engine.environment if engine else {}),
    }


def _expect(message: FromWorker, kind: type[_Message]) -> _Message:
    if isinstance(message, kind):
        return message
    if isinstance(message, Failed):
        raise EdgedError(Code(message.code), message.message, message.hint)
    raise EdgedError(Code.INTERNAL, f"a worker answered with {type(message).__name__}")
