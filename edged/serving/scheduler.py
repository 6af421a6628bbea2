"""The queue of one model: bounded, first come first served, batches formed from what waits.

A batch takes requests of one key while its worker is idle; whatever arrives meanwhile makes up the next. The route is
resolved when a batch is formed. Work that was cancelled, or whose deadline has passed, is never executed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from edged import log
from edged.errors import Code, EdgedError
from edged.models.residency import Resident
from edged.serving.admission import Admitted
from edged.serving.request import Answer, Contents, Output
from edged.serving.statistics import Statistics
from edged.worker.messages import Failed, Infer, InputPart

_log = log.get("serving")


class Pending(msgspec.Struct, eq=False):
    """A request that waits, or is being executed. `deadline` is of the loop's clock."""

    admitted: Admitted
    contents: tuple[Contents, ...]
    size: int
    deadline: float
    answer: asyncio.Future[Answer]


class Bounds(msgspec.Struct, frozen=True):
    """What may wait for one model at most."""

    requests: int
    size_bytes: int


def take_batch(waiting: deque[Pending], now: float, max_rows: int) -> tuple[list[Pending], list[Pending]]:
    """Takes the next batch off the queue, and with it what is past its deadline. Pure but for the queue.

    The oldest request leads; others of its key follow while the rows of all are at most `max_rows` (0: no batching).
    What was cancelled is dropped; the rest keeps its order.
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
        elif not batch or (pending.admitted.key == batch[0].admitted.key and rows + pending.admitted.rows <= max_rows):
            batch.append(pending)
            rows += pending.admitted.rows
            if rows >= max_rows:
                break
        else:
            left.append(pending)
    waiting.extendleft(reversed(left))
    return batch, late


class Queue:
    """Requests for one model revision."""

    def __init__(self, resident: Resident, bounds: Bounds) -> None:
        self.bounds = bounds
        self.statistics = Statistics()
        self._resident = resident
        self._waiting: deque[Pending] = deque()
        self._size = 0
        self._executing: list[Pending] = []
        self._task: asyncio.Task[None] | None = None
        self._idle: list[Callable[[], None]] = []

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def executing(self) -> int:
        """Requests that a worker has."""
        return len(self._executing)

    async def run(self, admitted: Admitted, contents: tuple[Contents, ...], deadline: float) -> Answer:
        """Waits for the answer of one request, until `deadline` on the loop's clock.

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
        pending = Pending(admitted, contents, size, deadline, loop.create_future())
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

    async def _execute(self, batch: Sequence[Pending]) -> None:
        """Whatever happens, every member is told."""
        try:
            await self._ask(batch)
        except EdgedError as error:
            failure = error
        except Exception:  # noqa: BLE001 - a defect, which costs this batch and not those that wait
            _log.exception("a batch met a defect of edged", model=self._resident.name)
            failure = EdgedError(Code.INTERNAL, "a defect of edged; its log says more", "please report it")
        else:
            return
        for pending in batch:
            _resolve(pending, failure)

    async def _ask(self, batch: Sequence[Pending]) -> None:
        resident = self._resident
        worker, variant = resident.worker, resident.variant
        if worker is None or variant is None:
            raise unavailable(resident)
        try:
            answered, body = await worker.infer(*_message(batch))
        except EdgedError as error:
            raise self._named(error) from error
        self.statistics.batches += 1
        datatypes = {spec.name: spec.datatype for spec in resident.manifest.outputs}
        at = 0
        for pending, member in zip(batch, answered.members, strict=True):
            if isinstance(member, Failed):
                _resolve(pending, self._named(EdgedError(Code(member.code), member.message, member.hint)))
                continue
            self.statistics.rows += pending.admitted.rows
            outputs = []
            for name, part in zip(pending.admitted.outputs, member.outputs, strict=True):
                outputs.append(Output(name, datatypes[name], part.shape, body[at : at + part.size]))
                at += part.size
            _resolve(
                pending,
                Answer(resident.name, resident.revision, variant.name, resident.degraded, tuple(outputs)),
            )

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


def _message(batch: Sequence[Pending]) -> tuple[Infer, list[bytes | memoryview]]:
    """The message of a batch: its body lies input by input, and within an input member by member."""
    admitted = batch[0].admitted
    members = [
        tuple(
            InputPart(shape, content.size, content.form)
            for shape, content in zip(pending.admitted.shapes, pending.contents, strict=True)
        )
        for pending in batch
    ]
    body = [
        part
        for position in range(len(admitted.inputs))
        for pending in batch
        for part in pending.contents[position].parts
    ]
    return Infer(admitted.inputs, admitted.outputs, members), body


def _resolve(pending: Pending, result: Answer | EdgedError) -> None:
    if pending.answer.done():
        return
    if isinstance(result, EdgedError):
        pending.answer.set_exception(result)
    else:
        pending.answer.set_result(result)


def _late(model: str) -> EdgedError:
    return EdgedError(Code.DEADLINE_EXCEEDED, f"model {model!r} did not answer in time")
