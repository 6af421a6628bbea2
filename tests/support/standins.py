"""Stand-ins for what serving stands on: a model without a bundle, a worker that answers when the test says so, and a
loop whose clock the test moves forward."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edged.bundle.manifest import File, Manifest, Queue, Variant
from edged.changes import Changes
from edged.errors import Code, EdgedError
from edged.models.choosing import Choice
from edged.models.states import Lost, Source, State
from edged.serving.admission import admit
from edged.serving.nap import Nap
from edged.serving.request import Call, Contents, InputMeta
from edged.serving.waiting import Pending
from edged.system.hardware import Hardware
from edged.types import Datatype, TensorSpec
from edged.worker.messages import Answered, Failed, Form, MemberAnswer, OutputPart
from edged.worker.placing import Parts
from edged.worker.process import Batch

FP32_BYTES = 4


def manifest(
    *,
    name: str = "doubles",
    revision: int = 1,
    max_batch_size: int = 8,
    inputs: Sequence[tuple[str, str, Sequence[int]]] = (("x", "FP32", (-1, -1)),),
    outputs: Sequence[tuple[str, str, Sequence[int]]] = (("y", "FP32", (-1, -1)),),
    variants: Sequence[str] = ("best", "lesser"),
    queue: Queue | None = None,
) -> Manifest:
    """A manifest whose files nobody will open."""

    def specs(tensors: Sequence[tuple[str, str, Sequence[int]]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, Datatype(datatype), tuple(shape)) for name, datatype, shape in tensors)

    return Manifest(
        name=name,
        revision=revision,
        max_batch_size=max_batch_size,
        inputs=specs(inputs),
        outputs=specs(outputs),
        variants=tuple(Variant(name=each, runtime="onnxruntime", file="model.onnx") for each in variants),
        files=(File(path="model.onnx", size=1, sha256="0" * 64),),
        queue=queue or Queue(),
    )


def call(
    rows: int = 1, columns: int = 2, *, model: str = "doubles", version: str = "", timeout_s: float | None = None
) -> Call:
    """A request for `manifest()`: zeros of shape [rows, columns]."""
    inputs = (InputMeta("x", "FP32", (rows, columns)),)
    contents = (Contents(Form.RAW, (bytes(rows * columns * FP32_BYTES),), -1),)
    return Call(model, version, "", inputs, (), contents, signature=inputs, timeout_s=timeout_s)


def as_it_is(answer: Any) -> Any:
    """Renders an answer as itself, so that a test can look at it."""
    return answer


def pending(
    answer: Any, rows: int = 1, columns: int = 2, deadline: float = float("inf"), of: Manifest | None = None
) -> Pending:
    """A request in a queue, as `call` makes it."""
    request = call(rows, columns)
    admitted = admit(of or manifest(max_batch_size=1000), request)
    return Pending(admitted, request.contents, rows * columns * FP32_BYTES, deadline, as_it_is, answer)


class Asked:
    """A batch that a worker has, until the test lets it answer."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.body = b"".join(part for contents in batch.contents for part in contents)
        self.reply: asyncio.Future[tuple[Answered, list[Parts]]] = asyncio.get_running_loop().create_future()

    @property
    def rows(self) -> list[int]:
        """Axis 0 of each member's first input."""
        return [member[0].shape[0] for member in self.batch.members]

    def answer(self, failed: dict[int, Failed] | None = None, took_ns: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Each member gets its input back as its output; those in `failed` get their error."""
        members: list[MemberAnswer | Failed] = []
        parts: list[Parts] = []
        begin = 0
        for index, member in enumerate(self.batch.members):
            size = member[0].size
            if failed and index in failed:
                members.append(failed[index])
                parts.append(failed[index])
            else:
                members.append(MemberAnswer((OutputPart(member[0].shape, size),)))
                parts.append([memoryview(self.body)[begin : begin + size]])
            begin += size
        self.reply.set_result((Answered(members, (False,), *took_ns), parts))

    def fail(self, error: BaseException | None = None) -> None:
        """The worker ends, or what else `error` says."""
        self.reply.set_exception(error or EdgedError(Code.WORKER_CRASHED, "the worker ended: killed by SIGKILL"))


class Worker:
    """Takes batches, and answers none of its own accord."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.got = asyncio.Event()
        """Set when it gets a batch."""
        self.excused = False

    async def infer(self, batch: Batch, use: Callable[[Answered, list[Parts]], None]) -> None:
        """Waits for the test."""
        asked = Asked(batch)
        self.asked.append(asked)
        self.got.set()
        use(*await asked.reply)


class Resident:
    """What the scheduler, the service and the report ask of a resident."""

    def __init__(self, of: Manifest | None = None, *, state: State = State.READY, reason: str = "") -> None:
        self.manifest = of or manifest()
        self.source = Source(Path("/nowhere"), self.manifest, "factory")
        self.digest = "0" * 64
        self.state = state
        self.reason = reason
        self.variant: Variant | None = self.manifest.variants[0]
        self.worker: Worker | None = Worker()
        self.changes = Changes()
        self.coming_back = False
        self.answers = 0
        self.lost: list[Lost] = []
        self.leaving = False
        self.begun = False
        self.max_answer_bytes = 0
        self.choice = Choice(self.manifest, Hardware("generic"), {}, lambda: None)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def revision(self) -> int:
        """The bundle's revision."""
        return self.manifest.revision

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.state is State.READY

    @property
    def working(self) -> bool:
        """Whether it has a worker, if only for what waits."""
        return self.ready

    @property
    def loaded(self) -> bool:
        """Whether it was started and is not to go."""
        return self.begun and not self.leaving

    @property
    def expected(self) -> bool:
        """Whether it answers, or will shortly."""
        return self.ready or self.coming_back

    resting = False

    def wake(self) -> None:
        """It does not rest."""

    def answered(self) -> None:
        """Its worker answered."""
        self.answers += 1

    def comes_back(self) -> None:
        """Its worker has died, and the next is on its way."""
        self.state, self.worker, self.coming_back = State.LOADING, None, True
        self.changes.mark()

    def is_back(self) -> Worker:
        """The next worker is there."""
        self.state, self.worker, self.coming_back = State.READY, Worker(), False
        self.changes.mark()
        return self.worker

    def goes(self, state: State, reason: str) -> None:
        """It does not come back."""
        self.state, self.reason, self.worker, self.coming_back = state, reason, None, False
        self.changes.mark()

    @property
    def degraded(self) -> bool:
        """Whether a lesser variant answers."""
        return self.ready and self.variant is not self.manifest.variants[0]

    def start(self) -> None:
        """It is as the test made it."""
        self.begun = True


class Clock:
    """The running loop's clock, which only the test moves on; timers fire in the loop's next turn."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        self._ahead_s = 0.0
        loop.time = lambda: real() + self._ahead_s  # type: ignore[method-assign]

    def forward(self, seconds: float) -> None:
        """That much later."""
        self._ahead_s += seconds


class Naps(Nap):
    """Naps that `settle` waits for."""

    under_way = 0

    async def wait(self, news: asyncio.Future[None], limit_ns: int) -> None:
        """As it is told, counted while it is short."""
        short = limit_ns < 1_000_000
        Naps.under_way += short
        try:
            await super().wait(news, limit_ns)
        finally:
            Naps.under_way -= short


async def settle() -> None:
    """Lets the loop turn until everything that needs no outside event has happened, and nobody naps."""
    turns = 60
    while turns or Naps.under_way:
        turns = 60 if Naps.under_way else turns - 1
        await asyncio.sleep(0)
