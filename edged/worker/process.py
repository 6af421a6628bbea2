"""A worker as the front sees it: started, asked, timed, kept within its caps, ended."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from edged import clock
from edged.errors import Code, EdgedError
from edged.worker import usage
from edged.worker.arena import LARGE_BYTES, Arena
from edged.worker.child import Child, Exit
from edged.worker.link import Link, Reply
from edged.worker.messages import (
    MAX_BODY_BYTES,
    Answered,
    Compared,
    Failed,
    FromWorker,
    Infer,
    InputPart,
    Load,
    Loaded,
    MemberAnswer,
    RunGolden,
    RunShadow,
)
from edged.worker.templates import Maker, spawned
from edged.worker.usage import Usage

# How often the memory of a worker is looked at while it works; what does nothing allocates nothing.
_WATCH_S = 0.1

# How long a worker may stay once its link has ended, by which it ends of its own accord; `stop` gives it its own time.
_CUT_OFF_S = 5.0

_Message = TypeVar("_Message")
_Result = TypeVar("_Result")

Buffer = bytes | memoryview


class Caps(msgspec.Struct, frozen=True):
    """What a worker may take, in time and in memory."""

    load_s: float
    first_inference_s: float
    inference_s: float
    memory_bytes: int
    arena_bytes: int

    def describe(self) -> str:
        """In words, for status."""
        memory = f"memory {self.memory_bytes // 2**20} MiB, watched"
        return f"{memory}; load {self.load_s:g} s, first {self.first_inference_s:g} s, then {self.inference_s:g} s"


class Batch(msgspec.Struct, frozen=True):
    """What a worker is asked: `members[m][i]` describes, and `contents[i]` holds in the members' order, `inputs[i]`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    members: list[tuple[InputPart, ...]]
    contents: list[list[Buffer]]
    expected: tuple[int, ...]
    """How many bytes each output will take; 0 where that cannot be known."""


# The outputs of one member in the order asked for, or why it has none.
Parts = list[memoryview] | Failed


class Worker:
    """One process with one loaded variant. Made by `start`; `ended` always resolves, to how it ended."""

    def __init__(self, child: Child, how: str, link: Link, arena: Arena, caps: Caps) -> None:
        self.pid = child.pid
        self.made = how
        self.caps = caps
        self.started_at = clock.wall()
        self.loaded = Loaded(0.0, 0.0)
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.verdict: EdgedError | None = None
        """Why the front ended it, where it did."""
        self.excused = False
        """Whether its death would be another's fault than its model's."""
        self._child = child
        self._link = link
        self._arena = arena
        self._replies_due = 0
        self._watch: asyncio.TimerHandle | None = None
        child.ended.add_done_callback(self._end)
        link.lost.add_done_callback(self._cut_off)

    async def infer(self, batch: Batch, use: Callable[[Answered, list[Parts]], _Result]) -> _Result:
        """Runs one batch and gives what `use` makes of the answer; the parts are valid until it returns.

        Raises EdgedError: the worker's own, worker_crashed when it ended meanwhile, worker_hang after its time limit.
        """
        if self.ended.done():  # and its arena is gone
            raise self._death("an inference")
        slots = tuple(self._send_by_arena(contents) for contents in batch.contents)
        rooms = tuple(self._room(size) for size in batch.expected)
        body = [part for slot, parts in zip(slots, batch.contents, strict=True) if slot < 0 for part in parts]
        asked = Infer(batch.inputs, batch.outputs, batch.members, slots, rooms)
        reply = self._link.send(asked, body)
        try:
            message, rest = await self._answer(reply, self.caps.inference_s, "an inference")
            answered = _expect(message, Answered)
            return use(answered, self._parts(asked, answered, rest))
        finally:
            if reply.done():  # the worker has done with them
                self._release(asked)
            else:  # the caller gave up: the worker still reads and writes there
                reply.add_done_callback(lambda _: self._release(asked))

    def _release(self, asked: Infer) -> None:
        for offset in (*asked.slots, *(offset for offset, _ in asked.rooms)):
            if offset >= 0:
                self._arena.slots.release(offset)

    def _send_by_arena(self, contents: Sequence[Buffer]) -> int:
        """Copies the contents of a large input into the arena; -1 where it is to go by the link."""
        size = sum(map(len, contents))
        offset = self._arena.slots.take(size) if size >= LARGE_BYTES else -1
        at = offset
        for part in contents if offset >= 0 else ():
            self._arena.view[at : at + len(part)] = part
            at += len(part)
        return offset

    def _room(self, size: int) -> tuple[int, int]:
        offset = self._arena.slots.take(size) if size >= LARGE_BYTES else -1
        return (offset, size) if offset >= 0 else (-1, 0)

    def _parts(self, asked: Infer, answered: Answered, reply: memoryview) -> list[Parts]:
        """Where each member's outputs lie. Raises EdgedError when they would lie beyond what the worker was given."""
        at = 0
        in_room = [offset for offset, _ in asked.rooms]
        ends = [offset + size for offset, size in asked.rooms]
        found: list[Parts] = []
        for member in answered.members:
            if not isinstance(member, MemberAnswer):
                found.append(member)
                continue
            parts = []
            for position, output in enumerate(member.outputs):
                if answered.placed[position]:
                    start, end = in_room[position], ends[position]
                    in_room[position] += output.size
                    parts.append(_part(self._arena.view, start, output.size, end))
                else:
                    parts.append(_part(reply, at, output.size, len(reply)))
                    at += output.size
            found.append(parts)
        return found

    async def golden(self, golden: RunGolden) -> Compared:
        """Runs a golden. Raises as `infer` does."""
        message, _ = await self._answer(self._link.send(golden), self.caps.first_inference_s, "a golden")
        return _expect(message, Compared)

    async def shadow(self, shadow: RunShadow, body: Sequence[Buffer]) -> Compared:
        """Runs a copied request. Raises as `infer` does."""
        message, _ = await self._answer(self._link.send(shadow, body), self.caps.inference_s, "a copied request")
        return _expect(message, Compared)

    async def load(self, load: Load) -> None:
        """Loads and warms up; asked once. Raises EdgedError with the reason."""
        limit_s = self.caps.load_s + self.caps.first_inference_s
        message, _ = await self._answer(self._link.send(load), limit_s, "loading")
        self.loaded = _expect(message, Loaded)

    async def _answer(self, reply: asyncio.Future[Reply], limit_s: float, what: str) -> Reply:
        """Waits for a reply, and holds the worker to its caps until it is here, even when the caller gives up."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(limit_s, self._hang, f"{what} took longer than {limit_s:g} s")
        if not self._replies_due:
            self._watch = loop.call_later(_WATCH_S, self._look)
        self._replies_due += 1
        reply.add_done_callback(functools.partial(self._replied, timer))
        try:
            return await asyncio.shield(reply)
        except EdgedError as error:
            await asyncio.shield(self.ended)
            raise self._death(what) from error

    def _replied(self, timer: asyncio.TimerHandle, reply: asyncio.Future[Reply]) -> None:
        timer.cancel()
        reply.exception()  # nobody may wait for it any more
        self._replies_due -= 1
        if not self._replies_due and self._watch is not None:
            self._watch.cancel()
        self._hold_to_memory()

    def _look(self) -> None:
        self._hold_to_memory()
        self._watch = asyncio.get_running_loop().call_later(_WATCH_S, self._look)

    def _death(self, what: str) -> EdgedError:
        """What somebody is told who asked for `what` when the worker ended."""
        if self.verdict is not None:
            return EdgedError(self.verdict.code, self.verdict.message, self.verdict.hint)
        text = f"the worker ended while it was asked for {what}: {self.ended.result().text}"
        return EdgedError(Code.WORKER_CRASHED, text)

    def _hold_to_memory(self) -> None:
        """Ends a worker that takes more memory than its cap."""
        if self._child.ended.done() or self.verdict is not None:
            return
        taken = usage.resident_bytes(self.pid)
        if taken > self.caps.memory_bytes:
            self._condemn(
                EdgedError(
                    Code.WORKER_CRASHED,
                    f"the worker took {taken // 2**20} MiB, its cap is {self.caps.memory_bytes // 2**20} MiB",
                    "see caps.memory_mib of the variant and workers.memory_mib of the settings",
                )
            )

    def _hang(self, text: str) -> None:
        self._condemn(EdgedError(Code.WORKER_HANG, text, "see caps of the variant and [workers] of the settings"))

    def _condemn(self, verdict: EdgedError) -> None:
        self.verdict = self.verdict or verdict
        self._child.kill()

    def _cut_off(self, _: object) -> None:
        """A worker without its link is of no use: it ends, or is ended."""
        if not self._child.ended.done():
            timer = asyncio.get_running_loop().call_later(_CUT_OFF_S, self._child.kill)
            self._child.ended.add_done_callback(lambda _: timer.cancel())

    def kill(self) -> None:
        """Sends SIGKILL; `ended` follows."""
        self._child.kill()

    async def stop(self, grace_s: float) -> Exit:
        """Ends the link, by which the worker ends; after `grace_s` seconds by force. Says how it ended."""
        self._link.close()
        await self._child.stop(grace_s)
        return await asyncio.shield(self.ended)

    def usage(self) -> Usage:
        """What it takes now and took at most; zeros once it has ended."""
        return Usage() if self._child.ended.done() else usage.read(self.pid)

    def _end(self, ended: asyncio.Future[Exit]) -> None:
        how = ended.result()
        self._link.close()
        if not how.lost:  # a lost process may still write there
            self._arena.close()
        text = f"{self.verdict.message} ({how.text})" if self.verdict else how.text
        self.ended.set_result(Exit(text, how.lost))


async def start(load: Load, caps: Caps, make: Maker = spawned) -> Worker:
    """Starts a worker and has it load. Raises EdgedError with the reason; no process is then left behind."""
    front, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with other:
        front.setblocking(False)
        try:
            _, link = await asyncio.get_running_loop().create_unix_connection(
                lambda: Link(_max_body_bytes(load)), sock=front
            )
        except BaseException:
            front.close()
            raise
        try:
            arena = Arena(caps.arena_bytes)
        except BaseException:
            link.close()
            raise
        try:
            child, how = await make(load.runtime, [other.fileno(), arena.descriptor])
        except BaseException:
            link.close()
            arena.close()
            raise
    worker = Worker(child, how, link, arena, caps)
    try:
        await worker.load(load)
    except BaseException:
        worker.kill()
        await asyncio.shield(worker.ended)
        raise
    return worker


def _part(of: memoryview, start: int, size: int, end: int) -> memoryview:
    if not 0 <= size <= end - start:
        raise EdgedError(Code.INTERNAL, "a worker's answer is larger than what it came in")
    return of[start : start + size]


def _max_body_bytes(load: Load) -> int:
    """What a worker can have to say: the answers of a whole batch."""
    return max(load.max_batch_size, 1) * load.max_answer_bytes or MAX_BODY_BYTES


def _expect(message: FromWorker, kind: type[_Message]) -> _Message:
    if isinstance(message, kind):
        return message
    if isinstance(message, Failed):
        raise EdgedError(Code(message.code), message.message, message.hint)
    raise EdgedError(Code.INTERNAL, f"a worker answered with {type(message).__name__}")
