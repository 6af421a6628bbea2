"""The queue of one model: bounded, first come first served, batches formed from what waits.

A batch takes requests of one key while its worker is idle; whatever arrives meanwhile makes up the next. The route is
resolved when a batch is formed. Work that was cancelled, or whose deadline has passed, is never executed.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from edged import clock, log
from edged.bundle.manifest import Manifest
from edged.errors import Code, EdgedError
from edged.facts import Executed, Fact
from edged.models.resident import Resident
from edged.serving.admission import Admitted
from edged.serving.request import Answer, Contents, Output
from edged.serving.statistics import Statistics
from edged.types import TensorSpec
from edged.worker.messages import Answered, Failed, InputPart
from edged.worker.process import Batch, Parts

_log = log.get("serving")


class Pending(msgspec.Struct, eq=False):
    """A request that waits, or is being executed. `deadline` is of the loop's clock."""

    admitted: Admitted
    contents: tuple[Contents, ...]
    size: int
    deadline: float
    render: Callable[[Answer], bytes]
    """Makes the reply of an answer, whose parts do not outlive the call."""
    answer: asyncio.Future[bytes]
    arrived: float = 0.0
    """By the loop's clock."""
    retried: bool = False
    """Its worker died once: it is tried once more, alone."""


class Bounds(msgspec.Struct, frozen=True):
    """What may wait for one model at most."""

    requests: int
    size_bytes: int


def take_batch(waiting: deque[Pending], now: float, max_rows: int) -> tuple[list[Pending], list[Pending]]:
    """Takes the next batch off the queue, and with it what is past its deadline. Pure but for the queue.

    The oldest request leads; others of its key follow while the rows of all are at most `max_rows` (0: no batching).
    One that is retried stays alone. What was cancelled is dropped; the rest keeps its order.
    """
    batch: list[Pending] = []
    late: list[Pending] = []
    left: list[Pending] = []
    rows = 0
    while waiting:
        pending = waiting.popleft()
        if pending.answer.done():
            continue
        if pending.deadline <= now:
            late.append(pending)
        elif not batch or _fits(pending, batch[0], max_rows - rows):
            batch.append(pending)
            rows += pending.admitted.rows
            if rows >= max_rows or pending.retried:
                break
        else:
            left.append(pending)
    waiting.extendleft(reversed(left))
    return batch, late


def _fits(pending: Pending, leader: Pending, free_rows: int) -> bool:
    same = pending.admitted.key == leader.admitted.key and not pending.retried
    return same and pending.admitted.rows <= free_rows


class Queue:
    """Requests for one model revision."""

    def __init__(self, resident: Resident, bounds: Bounds, tell: Callable[[Fact], None] | None = None) -> None:
        """`tell` hears of every batch that was executed."""
        self.bounds = bounds
        self._tell = tell
        self._sent = 0.0
        self.statistics = Statistics()
        self._resident = resident
        self._waiting: deque[Pending] = deque()
        self._size = 0
        self._executing: list[Pending] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def executing(self) -> int:
        """Requests that a worker has."""
        return len(self._executing)

    async def run(
        self,
        admitted: Admitted,
        contents: tuple[Contents, ...],
        deadline: float,
        render: Callable[[Answer], bytes],
    ) -> bytes:
        """Waits for the rendered answer of one request, until `deadline` on the loop's clock.

        Raises EdgedError: overloaded at once when the queue is full, deadline_exceeded, or what befell the model.
        """
        size = sum(content.size for content in contents)
        if len(self._waiting) >= self.bounds.requests or (self._waiting and self._size + size > self.bounds.size_bytes):
            raise EdgedError(
                Code.OVERLOADED,
                f"model {self._resident.name!r} has {len(self._waiting)} requests of {self._size} bytes waiting",
                "send less, or try again later",
            )
        loop = asyncio.get_running_loop()
        pending = Pending(admitted, contents, size, deadline, render, loop.create_future(), loop.time())
        self._waiting.append(pending)
        self._size += size
        if self._task is None:
            self._task = loop.create_task(self._work(), name=f"queue {self._resident.name}")
        try:
            async with asyncio.timeout_at(deadline):
                return await pending.answer
        except TimeoutError as error:
            raise _late(self._resident.name) from error
        finally:
            if pending in self._waiting:  # its caller gave up: the place is free again
                self._waiting.remove(pending)
                self._size -= size

    async def _work(self) -> None:
        """Executes batches until nothing waits."""
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(0)  # whoever arrives in the same turn of the loop comes along
            while self._waiting:
                if not await self._worker_is_there():
                    self.give_up(unavailable(self._resident))
                    break
                batch, late = take_batch(self._waiting, loop.time(), self._resident.manifest.max_batch_size)
                self._size = sum(pending.size for pending in self._waiting)
                for pending in late:
                    pending.answer.set_exception(_late(self._resident.name))
                if batch:
                    self._executing = batch
                    await self._execute(batch)
                    self._executing = []
        finally:
            self._executing = []
            self._task = None

    async def _worker_is_there(self) -> bool:
        """Waits while the worker is on its way back; False when none is expected soon."""
        resident = self._resident
        while not resident.ready:
            if not resident.expected:
                return False
            await resident.changes.after(resident.changes.count)
        return True

    async def _execute(self, batch: Sequence[Pending]) -> None:
        """Whatever happens, every member is told, or tried once more."""
        try:
            await self._ask(batch)
        except EdgedError as error:
            failure = error
        except Exception:  # noqa: BLE001 - a defect, which costs this batch and not those that wait
            _log.exception("a batch met a defect of edged", model=self._resident.name)
            failure = EdgedError(Code.INTERNAL, "a defect of edged; its log says more", "please report it")
        else:
            return
        again = []
        for pending in batch:
            if failure.code is Code.WORKER_CRASHED and not pending.retried and not pending.answer.done():
                pending.retried = True
                again.append(pending)
            else:
                _resolve(pending, failure)
        self._waiting.extendleft(reversed(again))
        self._size += sum(pending.size for pending in again)

    async def _ask(self, batch: Sequence[Pending]) -> None:
        resident = self._resident
        worker, variant = resident.worker, resident.variant
        if worker is None or variant is None:
            raise unavailable(resident)
        # A request that has killed a worker and kills another, alone, has shown that it is at fault, not the model.
        worker.excused = batch[0].retried
        self._sent = asyncio.get_running_loop().time()
        try:
            await worker.infer(_batch(resident, batch), functools.partial(self._answer, batch, variant.name))
        except EdgedError as error:
            worker.excused = worker.excused and error.code is Code.WORKER_CRASHED
            raise self._named(error) from error
        worker.excused = False
        resident.answered()

    def _answer(self, batch: Sequence[Pending], variant: str, answered: Answered, parts: Sequence[Parts]) -> None:
        """Hands each member its answer."""
        resident = self._resident
        queued: list[float] = []
        self.statistics.batches += 1
        datatypes = {spec.name: spec.datatype for spec in resident.manifest.outputs}
        for pending, member, found in zip(batch, answered.members, parts, strict=True):
            if isinstance(member, Failed) or isinstance(found, Failed):
                failure = member if isinstance(member, Failed) else found
                assert isinstance(failure, Failed)  # noqa: S101 - narrows the type
                _resolve(pending, self._named(EdgedError(Code(failure.code), failure.message, failure.hint)))
                continue
            self.statistics.rows += pending.admitted.rows
            if pending.answer.done():
                continue
            queued.append(self._sent - pending.arrived)
            outputs = tuple(
                Output(name, datatypes[name], output.shape, data)
                for name, output, data in zip(pending.admitted.outputs, member.outputs, found, strict=True)
            )
            answer = Answer(resident.name, resident.revision, variant, resident.degraded, outputs)
            pending.answer.set_result(pending.render(answer))
        if self._tell is not None and queued:
            rows = sum(pending.admitted.rows for pending in batch)
            compute_s = (answered.input_ns + answered.infer_ns + answered.output_ns) / 1e9
            at_ms = int(clock.wall().timestamp() * 1000)
            self._tell(Executed(resident.name, resident.revision, variant, rows, tuple(queued), compute_s, at_ms))

    def give_up(self, error: EdgedError) -> None:
        """Tells everybody who waits, or whose request a worker has, that no answer will come."""
        for pending in (*self._waiting, *self._executing):
            _resolve(pending, error)

    def _named(self, error: EdgedError) -> EdgedError:
        resident = self._resident
        text = f"model {resident.name!r}, revision {resident.revision}: {error.message}"
        return EdgedError(error.code, text, error.hint)

    async def drained(self) -> None:
        """Waits until nothing waits and nothing is executed."""
        while self._task is not None:
            await asyncio.wait([self._task])


def unavailable(resident: Resident) -> EdgedError:
    """Why a model cannot answer now."""
    why = f": {resident.reason}" if resident.reason else ""
    return EdgedError(
        Code.MODEL_UNAVAILABLE,
        f"model {resident.name!r} is {resident.state}{why}",
        "ModelReady and the health service tell when it is back",
    )


def _batch(resident: Resident, batch: Sequence[Pending]) -> Batch:
    """The members' tensors, input by input."""
    admitted = batch[0].admitted
    specs = {spec.name: spec for spec in resident.manifest.outputs}
    rows = sum(pending.admitted.rows for pending in batch)
    return Batch(
        inputs=admitted.inputs,
        outputs=admitted.outputs,
        members=[
            tuple(
                InputPart(shape, content.size, content.form)
                for shape, content in zip(pending.admitted.shapes, pending.contents, strict=True)
            )
            for pending in batch
        ],
        contents=[
            [part for pending in batch for part in pending.contents[position].parts]
            for position in range(len(admitted.inputs))
        ],
        expected=tuple(_expected_bytes(specs[name], rows, resident.manifest) for name in admitted.outputs),
    )


def _expected_bytes(spec: TensorSpec, rows: int, manifest: Manifest) -> int:
    """What an output of `rows` rows takes; 0 where its declaration leaves that open."""
    shape = (rows, *spec.shape[1:]) if manifest.max_batch_size else spec.shape
    return 0 if -1 in shape else math.prod(shape) * spec.datatype.size


def _resolve(pending: Pending, error: EdgedError) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)


def _late(model: str) -> EdgedError:
    return EdgedError(Code.DEADLINE_EXCEEDED, f"model {model!r} did not answer in time")
