"""Where workers come from: forked from their engine's warm template, or spawned where that cannot be.

The front's end of `template.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.runtimes.base import ENGINES
from edged.worker.child import Child, is_held, spawn
from edged.worker.messages import TEMPLATE_MESSAGE_BYTES, TEMPLATE_READY, TEMPLATE_THREADS
from edged.worker.watch import next_turn

# How long a template may take to import its engine, and then to fork.
_WARM_S = 60.0
_FORK_S = 5.0

# How long a template may take to go once its control socket is closed.
_STOP_GRACE_S = 1.0

# How often processes are looked for that have left a worker which lives on.
_SWEEP_S = 5

# prctl(2).
_PR_SET_CHILD_SUBREAPER = 36

# Of the daemon's environment: where an engine's libraries are and, for cards that are split (NVIDIA's Multi-Instance
# GPU), which part is this device's, as their drop-in of the unit says.
_PASSED_ON = (
    "LD_LIBRARY_PATH",
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
)

# How a worker is made: from its engine and the descriptors that it gets, a process and in words how it was made.
Maker = Callable[[str, Sequence[int]], Awaitable[tuple[Child, str]]]


async def spawned(engine: str, descriptors: Sequence[int]) -> tuple[Child, str]:
    """A worker in a fresh process. Raises OSError."""
    arguments = [str(os.getpid()), *map(str, descriptors)]
    return spawn("edged.worker.host", arguments, environment(engine), descriptors), "spawned"


class _RefusedError(Exception):
    """The template answered that it does not fork."""


class _Template:
    """The front's end of one engine's template."""

    def __init__(self, child: Child, control: socket.socket) -> None:
        self.child = child
        self._control = control

    @classmethod
    async def start(cls, engine: str) -> _Template:
        """Raises EdgedError or OSError when it does not become warm."""
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)
        with other:
            arguments = [str(os.getpid()), engine, str(other.fileno())]
            try:
                child = spawn("edged.worker.template", arguments, environment(engine), [other.fileno()])
            except OSError:
                mine.close()
                raise
        made = cls(child, mine)
        try:
            answer = await made._receive(_WARM_S)
        except BaseException:
            await made.stop(0)
            raise
        if answer != TEMPLATE_READY:
            await made.stop(_STOP_GRACE_S)
            raise EdgedError(Code.INCOMPATIBLE_RUNTIME, f"the template of {engine} ended: {answer}")
        return made

    async def fork(self, descriptors: Sequence[int]) -> int:
        """The id of a worker with `descriptors`. Raises _RefusedError, OSError or TimeoutError."""
        socket.send_fds(self._control, [b"fork"], list(descriptors))
        answer = await self._receive(_FORK_S)
        if not answer.isdigit():
            raise _RefusedError(answer)
        return int(answer)

    async def stop(self, grace_s: float) -> None:
        """Ends it; its workers stay."""
        self._control.close()
        await self.child.stop(grace_s)

    async def _receive(self, limit_s: float) -> str:
        """Its next message; the empty one is its end. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._control.fileno(), readable.set)
        try:
            async with asyncio.timeout(limit_s):
                await readable.wait()
        finally:
            loop.remove_reader(self._control.fileno())
        answer = self._control.recv(TEMPLATE_MESSAGE_BYTES).decode(errors="replace")
        if not answer:
            raise ConnectionResetError("the template ended")
        return answer


class Templates:
    """The warm templates: one an engine, started on first need, and again when it has died."""

    def __init__(self, events: EventLog) -> None:
        """Makes this process the one to which orphans below it pass."""
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._events = events
        self._warm: dict[str, _Template] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._unsafe: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def make(self, engine: str, descriptors: Sequence[int]) -> tuple[Child, str]:
        """A `Maker`: forks, or spawns where the template cannot fork, and says so. Raises OSError."""
        try:
            async with self._turns.setdefault(engine, asyncio.Lock()):
                pid, how = await self._forked(engine, descriptors)
                if pid:
                    child = Child(pid)
                else:
                    child, _ = await spawned(engine, descriptors)
                self._keep(child)
        finally:  # whatever came of it, what nobody knows goes
            self._sweep()
        return child, how

    async def _forked(self, engine: str, descriptors: Sequence[int]) -> tuple[int, str]:
        if engine in self._unsafe:
            return 0, self._unsafe[engine]
        try:
            if warm := self._warm.get(engine):
                with contextlib.suppress(ConnectionError):  # it died: the next one does it
                    return await warm.fork(descriptors), "forked"
                await self._drop(engine)
            self._warm[engine] = warm = await _Template.start(engine)
            self._keep(warm.child)
            return await warm.fork(descriptors), "forked"
        except _RefusedError as refusal:
            why = f"spawned: the template of {engine} does not fork ({refusal})"
            if str(refusal).startswith(TEMPLATE_THREADS):  # it will have them next time too
                self._unsafe[engine] = why
        except (OSError, TimeoutError, EdgedError) as error:
            why = f"spawned: the template of {engine} failed ({str(error) or type(error).__name__})"
        except asyncio.CancelledError:  # its answer, still to come, would be taken for the answer to the next
            await self._drop(engine)
            raise
        await self._drop(engine)
        self._events.record(Severity.WARNING, "template_failed", engine, why)
        return 0, why

    async def _drop(self, engine: str) -> None:
        if broken := self._warm.pop(engine, None):
            await broken.stop(0)

    def _keep(self, child: Child) -> None:
        child.ended.add_done_callback(lambda _: self._sweep())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(next_turn(_SWEEP_S), self._turn)

    def _turn(self) -> None:
        """Who leaves a worker that lives on tells nobody: strays are looked for while there may be any."""
        self._timer = None
        self._sweep()
        if _children():
            self._timer = asyncio.get_running_loop().call_at(next_turn(_SWEEP_S), self._turn)

    def _sweep(self) -> None:
        """Ends children that nobody holds: those of processes that have ended, which have become ours.

        While a template forks, an unknown child may be the worker that it is about to report; then it waits for that.
        """
        if any(turn.locked() for turn in self._turns.values()):
            return
        for pid in _children():
            if not is_held(pid):
                with contextlib.suppress(OSError):
                    stray = Child(pid)
                    self._keep(stray)
                    stray.kill()

    def warm_pids(self) -> dict[str, int]:
        """The processes of the templates, by engine."""
        return {engine: warm.child.pid for engine, warm in self._warm.items()}

    async def stop(self) -> None:
        """Ends all templates."""
        if self._timer is not None:
            self._timer.cancel()
        warm, self._warm = list(self._warm.values()), {}
        await asyncio.gather(*(each.stop(_STOP_GRACE_S) for each in warm))


def _children() -> list[int]:
    """The process ids of this process's children; proc(5), /proc/PID/task/TID/children."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in children.read_text(encoding="ascii").split()]
    return found


def environment(engine: str) -> Mapping[str, str]:
    """The environment of an engine's processes: nothing of the daemon's own, which may hold secrets or a proxy."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    own = ENGINES[engine].environment if engine in ENGINES else {}
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",  # else Python looks its user up, for which the C library may ask a server
        "OPENBLAS_NUM_THREADS": "1",
        **passed_on,
        **own,
    }
