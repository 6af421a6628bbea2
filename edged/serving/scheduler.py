"""The queue of one model: requests come in or are turned away, wait, are executed in batches, are answered.

What is decided is decided elsewhere, purely: who leads and who follows (`waiting`), when a batch leaves (`closing`),
who is turned away (`overload`), whose time is up (`deadlines`). The route is resolved when a batch is formed. Work
that was cancelled, or whose deadline has passed, is never executed.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence

from edged import clock, log
from edged.bundle.manifest import Variant
from edged.errors import Code, EdgedError
from edged.facts import Executed, Fact
from edged.models.resident import Resident
from edged.serving import batches, overload
from edged.serving.admission import Admitted
from edged.serving.busy import Busy
from edged.serving.closing import Closing
from edged.serving.deadlines import Deadlines
from edged.serving.duty import Duty
from edged.serving.forecast import Forecast
from edged.serving.observed import Observed
from edged.serving.overload import Ahead, Bounds, Patience
from edged.serving.rate import Bucket
from edged.serving.regions import Shared
from edged.serving.request import Answer, Contents, Output
from edged.serving.statistics import Statistics
from edged.serving.turn import turn
from edged.serving.waiting import Pending, Waiting
from edged.types import ModelLimits
from edged.worker.messages import Answered, Failed
from edged.worker.placing import Parts

_log = log.get("serving")

# A wait longer than this is slept through; a shorter one is passed in turns of the loop, whose timers are no finer.
_TIMER_S = 0.002


class Queue:
    """Requests for one model revision."""

    def __init__(
        self, resident: Resident, bounds: Bounds, duty: Duty, busy: Busy, tell: Callable[[Fact], None] | None = None
    ) -> None:
        """`tell` hears of every batch that was executed."""
        manifest = resident.manifest
        self.bounds = bounds
        self._tell = tell
        self.statistics = Statistics()
        self.observed = Observed(manifest)
        self._resident = resident
        self.asked_ns = clock.monotonic_ns()
        """When the last request came, by the monotonic clock; before the first, when this was made."""
        self._duty = duty
        self._busy_time = busy
        self._waiting = Waiting(in_order=manifest.queue.preserve_ordering)
        self._deadlines = Deadlines()
        self._closing = Closing(manifest.queue)
        self._forecast = Forecast()
        self._patience = Patience()
        self._max_rows = manifest.max_batch_size
        self._min_priority = 0
        self._bucket: Bucket | None = None
        self._executing: list[Pending] = []
        self._sent_ns = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._waiting.count

    @property
    def executing(self) -> int:
        """Requests that a worker has."""
        return len(self._executing)

    def limit(self, limits: ModelLimits) -> None:
        """Takes what the model may do now. What waits below the lowest priority still served is turned away.

        A worker has one batch at a time whatever `max_concurrency` says; a single request of more rows than
        `max_batch_size` allows goes alone.
        """
        most = self._resident.manifest.max_batch_size
        self._max_rows = min(most, limits.max_batch_size or most)
        rate = limits.max_rate
        if rate != (self._bucket.rate if self._bucket else 0):
            self._bucket = Bucket(rate, clock.monotonic()) if rate else None
        self._min_priority = limits.min_priority
        if self._min_priority:
            self._shed(list(self._waiting.below(self._min_priority)), self._too_low())

    async def run(
        self,
        admitted: Admitted,
        contents: tuple[Contents, ...],
        deadline: float,
        render: Callable[[Answer], bytes],
        level: int = 1,
        shared: Shared | None = None,
    ) -> bytes:
        """Waits for the rendered answer of one request of priority `level`, until `deadline` on the loop's clock.

        Raises EdgedError: overloaded at once when there is no room, deadline_exceeded, or what befell the model.
        """
        size = 0
        for content in contents:
            size += content.size if content.place is None else 0
        self._make_room(level, size, deadline)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self.asked_ns = clock.monotonic_ns()
        pending = Pending(admitted, contents, size, deadline, render, answer, level, self.asked_ns)
        pending.shared = shared
        self._waiting.add(pending)
        if self._deadlines.add(pending):
            self._expire()  # sets its timer
        if self._task is None:
            self._task = self._loop.create_task(self._work(), name=f"queue {self._resident.name}")
        elif self._news is not None and not self._news.done():
            self._news.set_result(None)
        try:
            return await answer
        finally:
            self._deadlines.remove(pending)
            if pending.place:  # its caller gave up: the place is free again
                self._waiting.remove(pending)

    def _make_room(self, level: int, size: int, deadline: float) -> None:
        """Raises EdgedError when a request is not to be taken in; may turn others away for it."""
        left_s = deadline - self._loop.time()
        if left_s <= 0:
            self.statistics.expired += 1
            raise _late(self._resident.name)
        if 0 < self._min_priority < level:
            raise self._too_low()
        if self._bucket is not None and not self._bucket.take(clock.monotonic()):
            raise self._overloaded(f"may answer {self._bucket.rate:g} requests a second now")
        waiting = self._waiting
        if not waiting.count:
            return
        count, rows = waiting.before(level)
        ahead = Ahead(count, len(self._executing), self._wait_s(rows))
        why = self._patience.too_long(level, self._loop.time(), ahead, self.bounds, left_s)
        if why:
            raise self._overloaded(why)
        shed = overload.make_room(waiting, self.bounds, level, size)
        if shed is None:
            raise self._overloaded(f"has {waiting.count} requests of {waiting.size} bytes waiting")
        if shed:
            self._shed(shed, self._overloaded("turned it away for requests of higher priority"))

    def _wait_s(self, rows: int) -> float:
        """How long a new request waits that `rows` rows go before, and what a worker has."""
        left_s = 0.0
        if self._executing:
            executing = sum([pending.admitted.rows for pending in self._executing])
            spent_s = (clock.monotonic_ns() - self._sent_ns) / 1e9
            left_s = max(self._forecast.batch_s(executing) - spent_s, 0.0)
        return (left_s + self._forecast.wait_s(rows, self._rows_at_most())) / self._duty.share

    def _rows_at_most(self) -> int:
        """How many rows a batch may have now; who declares how long batches wait declares how large too."""
        return self._max_rows if self._closing.declared else self._forecast.rows_worth(self._max_rows)

    def _overloaded(self, why: str) -> EdgedError:
        return EdgedError(Code.OVERLOADED, f"model {self._resident.name!r} {why}", "send less, or try again later")

    def _too_low(self) -> EdgedError:
        return self._overloaded(f"answers only priorities up to {self._min_priority} now")

    def _shed(self, shed: Sequence[Pending], error: EdgedError) -> None:
        for pending in shed:
            if pending.place:
                self._waiting.remove(pending)
            if not pending.answer.done():
                self.statistics.shed += 1
                pending.answer.set_exception(error)

    def _expire(self) -> None:
        """Tells everybody whose time is up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for pending in self._deadlines.due(self._loop.time()):
            if pending.place:
                self._waiting.remove(pending)
                self.statistics.expired += not pending.answer.done()
            _resolve(pending, _late(self._resident.name))
        if (deadline := self._deadlines.next) is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    async def _work(self) -> None:
        """Executes batches until nothing waits."""
        try:
            while self._waiting.count:
                if not await self._worker_is_there():
                    self.give_up(unavailable(self._resident))
                    break
                await self._fill()
                now = self._loop.time()
                if self._deadlines.passed(now):
                    self._expire()
                leader = self._waiting.leader()
                if leader is None:
                    continue
                left_s = leader.deadline - now
                max_rows = self._forecast.rows_within(left_s, self._rows_at_most(), leader.admitted.rows)
                self._executing = [each for each in self._waiting.take(max_rows) if not self._refused(each)]
                if self._executing:
                    await self._execute(self._executing)
                self._executing = []
        finally:
            self._executing = []
            self._task = None

    async def _fill(self) -> None:
        """Waits while the next batch may still grow, or has to rest."""
        await turn()  # whoever arrives in the same turn of the loop comes along
        waiting, closing = self._waiting, self._closing
        closing.begin(waiting.count, clock.monotonic_ns())
        leader, seen, full = None, -1, False
        while True:
            if waiting.count != seen:
                leader, seen, full = waiting.leader(), waiting.count, waiting.full(closing.rows(self._rows_at_most()))
            if leader is None:
                return
            rest_s = self._duty.rest_s(leader.level, clock.monotonic()) if self._duty.share < 1 else 0.0
            if not rest_s:
                if full:
                    return
                rest_s = closing.wait_s(waiting.count, leader.arrived_ns, clock.monotonic_ns())
                if rest_s < 0:
                    return
            if rest_s < _TIMER_S:
                await turn()
                continue
            self._news = self._loop.create_future()
            await asyncio.wait([self._news], timeout=rest_s - _TIMER_S / 2)
            self._news = None

    async def _worker_is_there(self) -> bool:
        """Waits while the worker is on its way back; False when none is expected soon."""
        resident = self._resident
        while not resident.working:
            if not resident.expected:
                return False
            resident.wake()
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
        for pending in batch:
            if failure.code is Code.WORKER_CRASHED and self._refused(pending):
                continue
            if failure.code is Code.WORKER_CRASHED and not pending.retried and not pending.answer.done():
                pending.retried = True
                self._waiting.add(pending)
            else:
                _resolve(pending, failure)

    def _refused(self, pending: Pending) -> bool:
        """Whether a request cannot be executed for want of its shared memory; it is told then."""
        problem = pending.shared.problem() if pending.shared is not None else None
        if problem is not None:
            _resolve(pending, self._named(problem))
        return problem is not None

    async def _ask(self, batch: Sequence[Pending]) -> None:
        resident = self._resident
        worker, variant = resident.worker, resident.variant
        if worker is None or variant is None:
            raise unavailable(resident)
        # A request that has killed a worker and kills another, alone, has shown that it is at fault, not the model.
        worker.excused = batch[0].retried
        self.statistics.last_inference_ms = clock.wall_ms()
        self._sent_ns = clock.monotonic_ns()
        self._busy_time.begin(self._sent_ns)
        try:
            await worker.infer(batches.join(resident.manifest, batch), functools.partial(self._answer, batch, variant))
        except EdgedError as error:
            worker.excused = worker.excused and error.code is Code.WORKER_CRASHED
            raise self._named(error) from error
        finally:
            self._busy_time.end(clock.monotonic_ns())
        worker.excused = False
        resident.answered()

    def _answer(self, batch: Sequence[Pending], variant: Variant, answered: Answered, parts: Sequence[Parts]) -> None:
        """Hands each member its answer."""
        resident = self._resident
        name, revision, degraded = resident.name, resident.revision, variant is not resident.manifest.variants[0]
        rows: list[int] = []
        arrived_ns: list[int] = []
        executed = 0
        for place, (pending, member, found) in enumerate(zip(batch, answered.members, parts, strict=True)):
            admitted = pending.admitted
            executed += admitted.rows
            if isinstance(member, Failed) or isinstance(found, Failed):
                failure = member if isinstance(member, Failed) else found
                assert isinstance(failure, Failed)  # noqa: S101 - narrows the type
                _resolve(pending, self._named(EdgedError(Code(failure.code), failure.message, failure.hint)))
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
            answer = Answer(name, revision, variant.name, degraded, outputs, place in answered.review)
            pending.answer.set_result(pending.render(answer))
            rows.append(admitted.rows)
            arrived_ns.append(pending.arrived_ns)
        self.statistics.count_execution(answered, executed, rows, arrived_ns, self._sent_ns)
        self.observed.take(variant.name, answered.counted)
        self._forecast.learn(executed, (clock.monotonic_ns() - self._sent_ns) / 1e9)
        self._duty.spent(answered.infer_ns / 1e9, clock.monotonic())
        if self._tell is not None and rows:
            queued_s = tuple([(self._sent_ns - at) / 1e9 for at in arrived_ns])
            compute_s = (answered.input_ns + answered.infer_ns + answered.output_ns) / 1e9
            self._tell(Executed(name, revision, variant.name, sum(rows), queued_s, compute_s, clock.wall_ms()))

    def give_up(self, error: EdgedError) -> None:
        """Tells everybody who waits, or whose request a worker has, that no answer will come."""
        for pending in list(self._waiting):
            self._waiting.remove(pending)
            _resolve(pending, error)
        for pending in self._executing:
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


def _resolve(pending: Pending, error: EdgedError) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)


def _late(model: str) -> EdgedError:
    return EdgedError(Code.DEADLINE_EXCEEDED, f"model {model!r} did not answer in time")
