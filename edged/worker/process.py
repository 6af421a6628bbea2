"""A worker as the front sees it: started, asked, timed, kept within its caps, ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from edged import clock
from edged.errors import Code, EdgedError
from edged.worker import cgroup, placing, usage
from edged.worker.arena import Arena
from edged.worker.cgroup import Group, Groups
from edged.worker.child import Child, Exit
from edged.worker.link import Link, Reply
from edged.worker.messages import (
    MAX_BODY_BYTES,
    Answered,
    Build,
    Compared,
    Failed,
    FromWorker,
    Infer,
    InputPart,
    Load,
    Loaded,
    RunGolden,
    RunShadow,
    Target,
    Unmap,
)
from edged.worker.placing import Buffer, Parts
from edged.worker.regions import Passing, Region, passing_pair
from edged.worker.templates import Maker, spawned
from edged.worker.usage import Usage
from edged.worker.watch import Watch

_MEMORY_HINT = "see caps.memory_mib of the variant and workers.memory_mib of the settings"

# How long a worker may stay once its link has ended, by which it ends of its own accord; `stop` gives it its own time.
_CUT_OFF_S = 5.0

_Message = TypeVar("_Message")
_Result = TypeVar("_Result")


class Caps(msgspec.Struct, frozen=True):
    """What a worker may take, in time and in memory."""

    load_s: float
    first_inference_s: float
    inference_s: float
    memory_bytes: int
    arena_bytes: int

    def describe(self, memory_held: str) -> str:
        """In words, for status; `memory_held` says how its memory is held to its cap."""
        memory = f"memory {self.memory_bytes // 2**20} MiB, {memory_held}"
        return f"{memory}; load {self.load_s:g} s, first {self.first_inference_s:g} s, then {self.inference_s:g} s"


class Batch(msgspec.Struct, frozen=True):
    """What a worker is asked: `members[m][i]` describes, and `contents[i]` holds in the members' order, `inputs[i]`.

    What lies in `regions` has no contents; `targets` is as in Infer.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    members: list[tuple[InputPart, ...]]
    contents: list[list[Buffer]]
    expected: tuple[int, ...]
    """How many bytes each output will take, targets apart; 0 where that cannot be known."""
    targets: tuple[tuple[Target | None, ...], ...] = ()
    regions: tuple[Region, ...] = ()
    """What `members` and `targets` name by number."""
    classes: tuple[int, ...] = ()
    """For each output how many classes of each row are wanted instead of its elements; 0, or empty: none."""


class Worker:
    """One process with one loaded variant. Made by `start`; `ended` always resolves, to how it ended."""

    def __init__(self, child: Child, how: str, link: Link, arena: Arena, passing: Passing, caps: Caps) -> None:
        self.pid = child.pid
        self.made = how
        self.caps = caps
        self.started_at = clock.wall()
        self.loaded = Loaded(0.0, 0.0)
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        self.verdict: EdgedError | None = None
        """Why the front ended it, where it did."""
        self.excused = False
        """Whether its death would be another's fault than its model's."""
        self._child = child
        self._link = link
        self._arena = arena
        self._passing = passing
        self._using: dict[int, Batch] = {}
        """The batches that it has and that name regions, by their identity."""
        self._due: set[asyncio.Future[Reply]] = set()
        self._groups = cgroup.NONE
        self._group: Group | None = None
        self._not_grouped = cgroup.NONE.why_not
        self._watch = Watch(self._hold_to_memory, lambda: bool(self._due))
        child.reaped.add_done_callback(self._free)
        child.ended.add_done_callback(self._end)
        link.lost.add_done_callback(self._cut_off)

    async def infer(self, batch: Batch, use: Callable[[Answered, list[Parts]], _Result]) -> _Result:
        """Runs one batch and gives what `use` makes of the answer; the parts are valid until it returns.

        Raises EdgedError: the worker's own, worker_crashed when it ended meanwhile, worker_hang after its time limit.
        """
        if self.ended.done():  # and its arena is gone
            raise self._death("an inference")
        for region in self._passing.pass_on(batch.regions):
            region.holders[self.pid] = self._unmap
        slots = tuple(placing.put(self._arena, contents) for contents in batch.contents)
        rooms = tuple(placing.room(self._arena, size) for size in batch.expected)
        body = [part for slot, parts in zip(slots, batch.contents, strict=True) if slot < 0 for part in parts]
        asked = Infer(batch.inputs, batch.outputs, batch.members, slots, rooms, batch.targets, batch.classes)
        reply = self._link.send(asked, body)
        if batch.regions:
            self._using[id(batch)] = batch
            reply.add_done_callback(functools.partial(self._used, batch))
        try:
            message, rest = await self._answer(reply, self.caps.inference_s, "an inference")
            answered = _expect(message, Answered)
            return use(answered, placing.find(self._arena, asked, answered, rest))
        finally:
            if reply.done():  # the worker has done with them
                placing.release(self._arena, asked)
            else:  # the caller gave up: the worker still reads and writes there
                reply.add_done_callback(lambda _: placing.release(self._arena, asked))

    def _used(self, batch: Batch, reply: asyncio.Future[Reply]) -> None:
        if reply.exception() is None:  # else it has died of it, perhaps
            del self._using[id(batch)]

    async def _unmap(self, region: Region) -> None:
        """Has it let go of a region, once it has done with what it was asked; or waits for its end."""
        if region.holders.pop(self.pid, None) is None or not self._passing.forget(region):
            return
        try:
            await self._link.send(Unmap(region.number))
        except EdgedError:  # its link ended first: what it died of is found out with the region's file still open
            await asyncio.shield(self.ended)

    def _charge_regions(self, how: Exit) -> None:
        """Where a region was shrunk under the worker, that has killed it, and not its model."""
        if not how.by_lost_memory or not self._using:
            return
        again = self.excused  # it had a request that is tried once more, alone
        self.excused = True
        for batch in self._using.values():
            for region in batch.regions:
                if region.shrunk:
                    region.fault = "was shrunk while the model's worker used it, which ended that"
                elif again:  # it grew again, or the file system had no memory left for it
                    region.fault = "had no memory behind it where the model's worker used it, which ended that"

    async def golden(self, golden: RunGolden) -> Compared:
        """Runs a golden. Raises as `infer` does."""
        message, _ = await self._answer(self._link.send(golden), self.caps.first_inference_s, "a golden")
        return _expect(message, Compared)

    async def shadow(self, shadow: RunShadow, body: Sequence[Buffer]) -> Compared:
        """Runs a copied request. Raises as `infer` does."""
        message, _ = await self._answer(self._link.send(shadow, body), self.caps.inference_s, "a copied request")
        return _expect(message, Compared)

    async def load(self, load: Load | Build) -> None:
        """Loads and warms up, or builds; asked once. Raises EdgedError with the reason."""
        limit_s = self.caps.load_s + self.caps.first_inference_s
        what = "building" if isinstance(load, Build) else "loading"
        message, _ = await self._answer(self._link.send(load), limit_s, what)
        self.loaded = _expect(message, Loaded)

    async def _answer(self, reply: asyncio.Future[Reply], limit_s: float, what: str) -> Reply:
        """Waits for a reply, and holds the worker to its caps until it is here, even when the caller gives up."""
        timer = self._loop.call_later(limit_s, self._hang, f"{what} took longer than {limit_s:g} s")
        self._watch.quicken()
        self._due.add(reply)
        reply.add_done_callback(functools.partial(self._replied, timer))
        try:
            return await asyncio.shield(reply)
        except EdgedError as error:
            await asyncio.shield(self.ended)
            raise self._death(what) from error

    def _replied(self, timer: asyncio.TimerHandle, reply: asyncio.Future[Reply]) -> None:
        timer.cancel()
        reply.exception()  # nobody may wait for it any more
        self._due.discard(reply)

    def _death(self, what: str) -> EdgedError:
        """What somebody is told who asked for `what` when the worker ended."""
        if self.verdict is not None:
            return EdgedError(self.verdict.code, self.verdict.message, self.verdict.hint)
        text = f"the worker ended while it was asked for {what}: {self.ended.result().text}"
        return EdgedError(Code.WORKER_CRASHED, text)

    async def enter(self, groups: Groups) -> None:
        """Has the kernel hold it to its memory, where it can; it is watched from here where not."""
        if groups.why_not:
            self._not_grouped = groups.why_not
            return
        try:
            # Aside, since moving a process waits until all processors have taken notice.
            self._group = await asyncio.to_thread(groups.place, self.pid, self.caps.memory_bytes)
        except OSError as error:
            self._not_grouped = cgroup.in_words(error)
            return
        self._groups = groups
        self._watch.stop()
        if self._child.ended.done():
            groups.remove(self._group)

    def bounds(self) -> str:
        """What it may take and how it is held to that, in words."""
        return self.caps.describe("held by the kernel" if self._group else f"watched ({self._not_grouped})")

    def _hold_to_memory(self) -> None:
        """Ends a worker that takes more memory than its cap, where the kernel does not."""
        if self._group is not None or self._child.ended.done() or self.verdict is not None:
            return
        arena_bytes = self._arena.used_bytes
        # At most this, since what it touched of the arena is counted in both: enough for nearly every look.
        if usage.resident_bytes(self.pid) + arena_bytes <= self.caps.memory_bytes:
            return
        taken = usage.own_bytes(self.pid) + arena_bytes
        if taken > self.caps.memory_bytes:
            text = f"the worker took {taken // 2**20} MiB, its cap is {self.caps.memory_bytes // 2**20} MiB"
            self._condemn(EdgedError(Code.WORKER_CRASHED, text, _MEMORY_HINT))

    def _hang(self, text: str) -> None:
        self._condemn(EdgedError(Code.WORKER_HANG, text, "see caps of the variant and [workers] of the settings"))

    def _condemn(self, verdict: EdgedError) -> None:
        self.verdict = self.verdict or verdict
        self.kill()

    def _cut_off(self, _: object) -> None:
        """A worker without its link is of no use: it ends, or is ended."""
        if not self._child.ended.done():
            timer = asyncio.get_running_loop().call_later(_CUT_OFF_S, self.kill)
            self._child.ended.add_done_callback(lambda _: timer.cancel())

    def kill(self) -> None:
        """Sends SIGKILL, to what it forked too where it has a group; `ended` follows."""
        if self._group is not None:
            self._group.kill()
        self._child.kill()

    async def drained(self) -> None:
        """Waits until it has answered what it was asked so far; its time limits bound that."""
        while self._due:
            await asyncio.wait(list(self._due))

    async def stop(self, grace_s: float) -> Exit:
        """Ends the link, by which the worker ends; after `grace_s` seconds by force. Says how it ended."""
        self._link.close()
        await self._child.stop(grace_s)
        return await asyncio.shield(self.ended)

    async def retire(self, grace_s: float) -> Exit:
        """As `stop`, once it has answered what it has. Cancelled, it stops at once, and goes on until it has."""
        try:
            await self.drained()
        finally:
            ending = asyncio.ensure_future(self.stop(grace_s))
            try:
                await asyncio.wait([ending])
            finally:
                how = await ending
        return how

    def usage(self) -> Usage:
        """What it takes now and took at most; zeros once it has gone, which a lost one has not."""
        if self._child.reaped.done():
            return Usage()
        arena_bytes = self._arena.used_bytes
        found = usage.read(self.pid)
        charged_bytes = self._group.taken_bytes if self._group else found.own_bytes + arena_bytes
        return msgspec.structs.replace(found, arena_bytes=arena_bytes, charged_bytes=charged_bytes)

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done when its process is no more: with `ended`, but for one that was lost, which may never go."""
        return self._child.reaped

    def _free(self, _: object) -> None:
        """Nobody can write to the arena any more, nor take memory."""
        self._arena.close()
        if self._group is not None:
            self._groups.remove(self._group)

    @property
    def arena_held_bytes(self) -> int:
        """What requests under way hold of the memory that it shares with the front."""
        return self._arena.slots.taken_bytes

    def _end(self, ended: asyncio.Future[Exit]) -> None:
        how = ended.result()
        self._link.close()
        self._watch.stop()
        for region in self._passing.close():
            region.holders.pop(self.pid, None)
        try:
            if self.verdict is None and self._group is not None and (why := self._group.death()):
                self.verdict = EdgedError(Code.WORKER_CRASHED, why, _MEMORY_HINT)
            self._charge_regions(how)
        finally:  # a defect in looking into its death must not leave its model without an end
            text = f"{self.verdict.message} ({how.text})" if self.verdict else how.text
            self.ended.set_result(Exit(text, how.lost, how.by_lost_memory))


class LostError(EdgedError):
    """A worker did not load, and could not be ended either."""

    def __init__(self, worker: Worker, why: EdgedError) -> None:
        super().__init__(why.code, why.message, why.hint)
        self.worker = worker


async def start(load: Load | Build, caps: Caps, make: Maker = spawned, groups: Groups = cgroup.NONE) -> Worker:
    """Starts a worker and has it load, or build.

    Raises EdgedError with the reason, and no process is then left behind; LostError where one is.
    """
    front, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with other, contextlib.ExitStack() as undo:
        front.setblocking(False)
        try:
            _, link = await asyncio.get_running_loop().create_unix_connection(
                lambda: Link(_max_body_bytes(load)), sock=front
            )
        except BaseException:
            front.close()
            raise
        undo.callback(link.close)
        arena = Arena(caps.arena_bytes)
        undo.callback(arena.close)
        passing, control = passing_pair()
        undo.callback(passing.close)
        with control:
            child, how = await make(load.source.runtime, [other.fileno(), arena.descriptor, control.fileno()])
        undo.pop_all()
    worker = Worker(child, how, link, arena, passing, caps)
    entering = asyncio.create_task(worker.enter(groups))
    try:
        await asyncio.shield(entering)
        await worker.load(load)
    except BaseException as error:
        try:  # the thread that moves the process must not meet one that has got its id after it
            await asyncio.wait([entering])
        finally:
            worker.kill()
        await asyncio.shield(worker.ended)
        if isinstance(error, EdgedError) and worker.ended.result().lost:
            raise LostError(worker, error) from error
        raise
    return worker


def _max_body_bytes(load: Load | Build) -> int:
    """What a worker can have to say: the answers of a whole batch; nothing beside its file where it builds."""
    if isinstance(load, Build):
        return 0
    return max(load.max_batch_size, 1) * load.max_answer_bytes or MAX_BODY_BYTES


def _expect(message: FromWorker, kind: type[_Message]) -> _Message:
    if isinstance(message, kind):
        return message
    if isinstance(message, Failed):
        raise EdgedError(message.known_code, message.message, message.hint)
    raise EdgedError(Code.INTERNAL, f"a worker answered with {type(message).__name__}")
