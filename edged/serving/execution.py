"""Has a model's worker execute what left its queue, and hands each caller its answer.

The variant is resolved when the batch is sent; a request of more rows than may be executed at once goes part by part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from msgspec import structs

from edged import clock
from edged.bundle.manifest import Variant
from edged.errors import Code, EdgedError
from edged.facts import Executed, Fact
from edged.models.resident import Resident
from edged.serving import batches
from edged.serving.busy import Busy
from edged.serving.division import Division
from edged.serving.duty import Duty
from edged.serving.forecast import Forecast
from edged.serving.observed import Observed
from edged.serving.request import Answer, Output
from edged.serving.statistics import Statistics
from edged.serving.waiting import Pending
from edged.worker.messages import Answered, Failed, MemberAnswer
from edged.worker.placing import Parts


class Execution:
    """For one model revision, one batch at a time."""

    def __init__(self, resident: Resident, duty: Duty, busy: Busy, tell: Callable[[Fact], None] | None) -> None:
        """`tell` hears of every batch that was executed."""
        self.statistics = Statistics()
        self.forecast = Forecast()
        self.observed = Observed(resident.manifest)
        self._resident = resident
        self._duty = duty
        self._busy_time = busy
        self._tell = tell
        self._rows = 0
        self._ahead = False
        """Whether who leads the batch may run ahead of the duty."""
        self._sent_ns = 0
        self._answered_ns = 0
        """When somebody was last answered well, by the monotonic clock; 0 before."""

    def left_s(self) -> float:
        """How long what the worker has will take yet."""
        spent_s = (clock.monotonic_ns() - self._sent_ns) / 1e9
        return max(self.forecast.batch_s(self._rows) - spent_s, 0.0)

    def proven(self, within_s: float, *, at_work: bool) -> bool | None:
        """Whether somebody was answered well within so long; None where the batch that it is at takes longer.

        That has a limit of its own, and says nothing before.
        """
        earliest_ns = clock.monotonic_ns() - round(within_s * 1e9)
        if self._answered_ns > earliest_ns:
            return True
        return None if at_work and self._sent_ns <= earliest_ns else False

    async def run(self, batch: Sequence[Pending]) -> None:
        """Executes a batch. Raises EdgedError when all of it failed; else each was told."""
        await self._ask(batch, self._answer)

    async def run_part(self, pending: Pending, rows: int) -> None:
        """Executes the next `rows` rows of a request; with the last of them it is answered. Raises as `run` does."""
        division = pending.division
        if division is None:
            most = self._resident.max_answer_bytes
            division = pending.division = Division(pending.admitted, pending.contents, pending.shared, most)
        if division.variant is not self._resident.variant:
            division.begin(self._resident.variant)
        part = division.part(rows)
        if part is None:
            await self.run([pending])
            return
        admitted, contents, shared = part
        asked = structs.replace(pending, admitted=admitted, contents=contents, shared=shared, division=None)
        await self._ask([asked], functools.partial(self._take_part, pending, division))

    async def _ask(
        self,
        batch: Sequence[Pending],
        use: Callable[[Sequence[Pending], Variant, Answered, Sequence[Parts]], None],
    ) -> None:
        resident = self._resident
        worker, variant = resident.worker, resident.variant
        if worker is None or variant is None:
            raise unavailable(resident)
        # A request that has killed a worker and kills another, alone, has shown that it is at fault, not the model.
        worker.excused = batch[0].retried
        self.statistics.last_inference_ms = clock.wall_ms()
        self._rows = sum([pending.admitted.rows for pending in batch])
        self._ahead = resident.manifest.queue.is_first(batch[0].level)
        self._sent_ns = clock.monotonic_ns()
        self._busy_time.begin(self._sent_ns)
        try:
            await worker.infer(batches.join(resident.manifest, batch), functools.partial(use, batch, variant))
        except EdgedError as error:
            worker.excused = worker.excused and error.code is Code.WORKER_CRASHED
            raise named(resident, error.with_traceback(None)) from error  # whose frames have the batch
        finally:
            self._busy_time.end(clock.monotonic_ns())
        worker.excused = False
        resident.answered()

    def _answer(self, batch: Sequence[Pending], variant: Variant, answered: Answered, parts: Sequence[Parts]) -> None:
        """Hands each member its answer."""
        rows: list[int] = []
        arrived_ns: list[int] = []
        for place, (pending, member, found) in enumerate(zip(batch, answered.members, parts, strict=True)):
            admitted = pending.admitted
            if isinstance(member, Failed) or isinstance(found, Failed):
                failure = member if isinstance(member, Failed) else found
                assert isinstance(failure, Failed)  # noqa: S101 - narrows the type
                resolve(pending, self._failure(failure))
                continue
            if pending.answer.done():
                continue
            outputs = tuple(
                [
                    Output(output, datatype, head.shape, data)
                    for output, datatype, head, data in zip(
                        admitted.outputs, admitted.output_datatypes, member.outputs, found, strict=True
                    )
                ]
            )
            if pending.shared is not None:
                outputs = pending.shared.placed(outputs, [head.size for head in member.outputs])
            self._give(pending, variant, outputs, review=place in answered.review)
            rows.append(admitted.rows)
            arrived_ns.append(pending.arrived_ns)
        self.statistics.count_execution(answered, self._rows, rows, arrived_ns, self._sent_ns)
        self._learn(variant, answered)
        if rows:
            spent_ns = answered.input_ns + answered.infer_ns + answered.output_ns
            self._say(variant, sum(rows), tuple([(self._sent_ns - at) / 1e9 for at in arrived_ns]), spent_ns)

    def _take_part(
        self,
        pending: Pending,
        division: Division,
        _: Sequence[Pending],
        variant: Variant,
        answered: Answered,
        parts: Sequence[Parts],
    ) -> None:
        """Keeps the answer to a part, and answers the request with the last."""
        (member,), (found,) = answered.members, parts
        self._learn(variant, answered)
        if not isinstance(member, MemberAnswer) or isinstance(found, Failed):
            failure = member if isinstance(member, Failed) else found
            assert isinstance(failure, Failed)  # noqa: S101 - narrows the type
            resolve(pending, self._failure(failure))
            return
        if pending.answer.done():
            return
        try:
            rows = division.take(answered, member, found)
        except EdgedError as error:
            resolve(pending, named(self._resident, error))
            return
        if not rows:
            return
        division.first_sent_ns = division.first_sent_ns or self._sent_ns
        self.statistics.count_part(answered, rows)
        queue_s: tuple[float, ...] = ()
        if not division.left:
            self._give(pending, variant, division.outputs(), review=division.review)
            self.statistics.count_divided(division.spent_ns, pending.arrived_ns, division.first_sent_ns)
            queue_s = ((division.first_sent_ns - pending.arrived_ns) / 1e9,)
        self._say(variant, rows, queue_s, sum(division.spent_ns))

    def _give(self, pending: Pending, variant: Variant, outputs: tuple[Output, ...], *, review: bool) -> None:
        resident = self._resident
        degraded = variant is not resident.manifest.variants[0]
        answer = Answer(resident.name, resident.revision, variant.name, degraded, outputs, review)
        pending.answer.set_result(pending.render(answer))

    def _failure(self, failure: Failed) -> EdgedError:
        return named(self._resident, EdgedError(failure.known_code, failure.message, failure.hint))

    def _learn(self, variant: Variant, answered: Answered) -> None:
        self.observed.take(variant.name, answered.counted)
        self.forecast.learn(self._rows, (clock.monotonic_ns() - self._sent_ns) / 1e9)
        self._duty.spent(answered.infer_ns / 1e9, clock.monotonic(), ahead=self._ahead)

    def _say(self, variant: Variant, rows: int, queue_s: tuple[float, ...], spent_ns: int) -> None:
        self._answered_ns = clock.monotonic_ns()
        if self._tell is not None:
            resident, now_ms = self._resident, clock.wall_ms()
            self._tell(Executed(resident.name, resident.revision, variant.name, rows, queue_s, spent_ns / 1e9, now_ms))


def resolve(pending: Pending, error: EdgedError) -> None:
    """Tells a caller why there is no answer, unless it was told something already."""
    if not pending.answer.done():
        pending.answer.set_exception(error)


def named(resident: Resident, error: EdgedError) -> EdgedError:
    """The error with the model that it is about."""
    text = f"model {resident.name!r}, revision {resident.revision}: {error.message}"
    return EdgedError(error.code, text, error.hint)


def unavailable(resident: Resident) -> EdgedError:
    """Why a model cannot answer now."""
    why = f": {resident.reason}" if resident.reason else ""
    return EdgedError(
        Code.MODEL_UNAVAILABLE,
        f"model {resident.name!r} is {resident.state}{why}",
        "ModelReady and the health service tell when it is back",
    )
