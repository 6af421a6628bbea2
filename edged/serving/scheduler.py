"""The queue of one model: requests come in or are turned away, wait, are executed in batches, are answered.

What is decided is decided elsewhere, purely: who leads and who follows (`waiting`), when a batch leaves (`closing`),
who is turned away (`overload`), whose time is up (`deadlines`). The route is resolved when a batch is formed. Work
that was cancelled, or whose deadline has passed, is never executed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

from edged import clock, log
from edged.errors import Code, EdgedError
from edged.facts import Fact
from edged.models.resident import Resident
from edged.serving import overload
from edged.serving.admission import Admitted
from edged.serving.busy import Busy
from edged.serving.closing import Closing, spare_ns
from edged.serving.deadlines import Deadlines
from edged.serving.duty import Duty
from edged.serving.execution import Execution, named, resolve, unavailable
from edged.serving.gate import Gate
from edged.serving.nap import Nap
from edged.serving.overload import Ahead, Bounds, Patience
from edged.serving.rate import Bucket
from edged.serving.regions import Shared
from edged.serving.request import Answer, Contents
from edged.serving.turn import turn
from edged.serving.waiting import Pending, Waiting
from edged.types import ModelLimits

_log = log.get("serving")

# Whoever has to rest longer looks again after so long: the share may be greater by then, or nobody may wait any more.
_REST_S = 1.0


class HandedOnError(EdgedError):
    """What waited is to ask for its model again, until `deadline` on the loop's clock."""

    def __init__(self, model: str, deadline: float) -> None:
        super().__init__(Code.MODEL_UNAVAILABLE, f"another revision of model {model!r} answers now", "ask again")
        self.deadline = deadline


class Queue:
    """Requests for one model revision."""

    def __init__(
        self,
        resident: Resident,
        bounds: Bounds,
        gate: Gate,
        duty: Duty,
        busy: Busy,
        nap: Nap,
        tell: Callable[[Fact], None] | None = None,
    ) -> None:
        """`tell` hears of every batch that was executed."""
        manifest = resident.manifest
        self.bounds = bounds
        self._execution = Execution(resident, duty, busy, tell)
        self.statistics = self._execution.statistics
        self._forecast = self._execution.forecast
        self.observed = self._execution.observed
        self.resident = resident
        self.asked_ns = clock.monotonic_ns()
        """When the last request came, by the monotonic clock; before the first, when this was made."""
        self._gate = gate
        self._duty = duty
        self._waiting = Waiting(in_order=manifest.queue.preserve_ordering)
        self._deadlines = Deadlines()
        self._closing = Closing(manifest.queue)
        self._patience = Patience()
        self._max_rows = manifest.max_batch_size
        self._min_priority = 0
        self._bucket: Bucket | None = None
        self._executing: list[Pending] = []
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._news_at = 0
        self._nap = nap

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._waiting.count

    @property
    def executing(self) -> int:
        """Requests that a worker has."""
        return len(self._executing)

    def proven(self, within_s: float) -> bool | None:
        """Whether requests show that the model has worked within so long."""
        return self._execution.proven(within_s, at_work=bool(self._executing))

    def limit(self, limits: ModelLimits) -> None:
        """Takes what the model may do now. What waits below the lowest priority still served is turned away.

        A single request of more rows than `max_batch_size` is executed in parts.
        """
        most = self.resident.manifest.max_batch_size
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
        *,
        handed_on: bool = False,
        synthetic: bool = False,
    ) -> bytes:
        """Waits for the rendered answer of one request of priority `level`, until `deadline` on the loop's clock.

        One that was `handed_on` has been taken in before, and is not turned away for want of room. Of one that is
        `synthetic` no results are counted.
        Raises EdgedError: overloaded at once when there is no room, deadline_exceeded, or what befell the model.
        """
        size = 0
        for content in contents:
            size += content.size if content.place is None else 0
        self._check(level, deadline)
        if not handed_on:
            self._make_room(level, size, deadline)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self.asked_ns = clock.monotonic_ns()
        pending = Pending(admitted, contents, size, deadline, render, answer, level, self.asked_ns)
        pending.shared, pending.synthetic = shared, synthetic
        self._waiting.add(pending)
        if self._deadlines.add(pending):
            self._expire()  # sets its timer
        if self._task is None:
            self._task = self._loop.create_task(self._work(), name=f"queue {self.resident.name}")
        elif self._news is not None and self._waiting.count >= self._news_at and not self._news.done():
            self._news.set_result(None)
        try:
            return await answer
        finally:
            self._deadlines.remove(pending)
            if pending.place:  # its caller gave up: the place is free again
                self._waiting.remove(pending)
            del answer, pending  # an error of theirs has this frame, and what was asked would stay with it

    def _check(self, level: int, deadline: float) -> None:
        """Raises EdgedError for a request that is not to be executed, however much room there is."""
        if deadline <= self._loop.time():
            self.statistics.expired += 1
            raise _late(self.resident.name)
        if 0 < self._min_priority < level:
            raise self._too_low()

    def _make_room(self, level: int, size: int, deadline: float) -> None:
        """Raises EdgedError when there is no room for a request; may turn others away for it."""
        waiting, skipped = self._waiting, None
        first = self.resident.manifest.queue.is_first(level)
        if self._bucket is not None and not self._bucket.take(clock.monotonic(), ahead=first):
            skipped = waiting.stalest(level)
            if skipped is None:
                raise self._too_many()
        if not waiting.count:
            return
        count, rows = waiting.before(level)
        ahead = Ahead(count, len(self._executing), self._wait_s(rows, first=first))
        now = self._loop.time()
        why = self._patience.too_long(level, now, ahead, self.bounds, deadline - now)
        if why:
            raise self._overloaded(why)
        shed = overload.make_room(waiting, self.bounds, level, size, skipped)
        if shed is None:
            raise self._overloaded(f"has {waiting.count} requests of {waiting.size} bytes waiting")
        if shed:
            self._shed(shed, self._overloaded("turned it away for requests of higher priority"))
        if skipped is not None and skipped.place:
            self._shed([skipped], self._too_many())

    def _wait_s(self, rows: int, *, first: bool) -> float:
        """How long a new request waits that `rows` rows go before, and what a worker has."""
        left_s = self._execution.left_s() if self._executing else 0.0
        in_parts = [each.division for each in self._executing if each.division is not None]
        rows += sum(max(division.left - self._max_rows, 0) for division in in_parts)
        work_s = left_s + self._forecast.wait_s(rows, self._rows_at_most())
        return self._duty.takes_s(work_s, clock.monotonic(), ahead=first)

    def _rows_at_most(self) -> int:
        """How many rows a batch may have now; who declares how long batches wait declares how large too."""
        return self._max_rows if self._closing.declared else self._forecast.rows_worth(self._max_rows)

    def _overloaded(self, why: str) -> EdgedError:
        return EdgedError(Code.OVERLOADED, f"model {self.resident.name!r} {why}", "send less, or try again later")

    def _too_many(self) -> EdgedError:
        rate = self._bucket.rate if self._bucket else 0.0
        return self._overloaded(f"may answer {rate:g} requests a second now")

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
            if pending.place or pending.division is not None:
                self.statistics.expired += not pending.answer.done()
            self._waiting.remove(pending)
            resolve(pending, _late(self.resident.name))
        if (deadline := self._deadlines.next) is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    async def _work(self) -> None:
        """Executes batches until nothing waits."""
        try:
            while self._waiting.count:
                if not await self._worker_is_there():
                    self.give_up(unavailable(self.resident))
                    break
                await self._fill()
                admission = await self._gate.turn(self._level)
                try:
                    if not self._rests():  # for what others have computed meanwhile
                        await self._execute_next()
                finally:
                    self._gate.end(admission)
        except Exception:  # noqa: BLE001 - a defect, which costs those that wait and not those that come
            _log.exception("a queue met a defect of edged", model=self.resident.name)
            self.give_up(EdgedError(Code.INTERNAL, "a defect of edged; its log says more", "please report it"))
        finally:
            self._task = None

    async def _execute_next(self) -> None:
        """Executes the next batch, where there is one and a worker for it."""
        now = self._loop.time()
        if self._deadlines.passed(now):
            self._expire()
        leader = self._waiting.leader()
        if leader is None or not self.resident.working:
            return
        left_s = leader.deadline - now
        max_rows = self._forecast.rows_within(left_s, self._rows_at_most(), leader.admitted.rows)
        taken = self._waiting.take(min(max_rows, leader.admitted.max_rows))
        self._executing = [each for each in taken if not self._refused(each)]
        try:
            if self._executing:
                await self._execute(self._executing)
        finally:
            self._executing = []

    def _level(self) -> int:
        """The priority of the next batch."""
        leader = self._waiting.leader()
        return leader.level if leader is not None else sys.maxsize

    async def _fill(self) -> None:
        """Waits while the next batch may still grow, or has to rest."""
        waiting, closing = self._waiting, self._closing
        if not waiting.full(closing.rows(self._rows_at_most())):  # else its worker need not wait for the answers before
            await turn()  # whoever arrives in the same turn of the loop comes along
        closing.begin(waiting.count, clock.monotonic_ns())
        leader, seen, full = None, -1, False
        while True:
            rests = self._duty.share < 1 and self._duty.rest_s(clock.monotonic()) > 0
            if waiting.count != seen or waiting.fair is rests:
                waiting.fair = not rests  # whoever has to rest is not put before one that need not
                leader, seen, full = waiting.leader(), waiting.count, waiting.full(closing.rows(self._rows_at_most()))
            if leader is None:
                return
            rest_s = self._rest_s(leader) if rests else 0.0
            if rest_s:
                await self._pause(round(min(rest_s, _REST_S) * 1e9), 0)  # whoever comes may be more urgent
                seen = -1
                continue
            left_ns = 0 if full else closing.wait_ns(seen, leader.arrived_ns, clock.monotonic_ns())
            if left_ns and closing.declared:
                left_ns = min(left_ns, self._spare_ns(self._deadlines.soonest() or leader))
            if not left_ns:
                return
            await self._pause(left_ns, seen + 1 if closing.declared else closing.enough)

    def _spare_ns(self, pending: Pending) -> int:
        waited_ns = clock.monotonic_ns() - pending.arrived_ns
        left_s, batch_s = pending.deadline - self._loop.time(), self._forecast.batch_s(self._rows_at_most())
        return spare_ns(waited_ns, round(left_s * 1e9), round(batch_s * 1e9))

    def _rests(self) -> bool:
        leader = self._waiting.leader()
        return leader is not None and self._duty.share < 1 and self._rest_s(leader) > 0

    def _rest_s(self, leader: Pending) -> float:
        """Who is tried once more may run ahead too: nobody comes before him."""
        ahead = leader.retried or self.resident.manifest.queue.is_first(leader.level)
        return self._duty.rest_s(clock.monotonic(), ahead=ahead)

    async def _pause(self, wait_ns: int, until: int) -> None:
        """Waits for so long, or until so many requests wait."""
        self._news, self._news_at = self._loop.create_future(), until
        try:
            await self._nap.wait(self._news, wait_ns)
        finally:
            self._news = None

    async def _worker_is_there(self) -> bool:
        """Waits while the worker is on its way back; False when none is expected soon."""
        resident = self.resident
        while not resident.working and self._waiting.count:
            if not resident.expected:
                return False
            resident.wake()
            await resident.changes.after(resident.changes.count)
        return True

    async def _execute(self, batch: Sequence[Pending]) -> None:
        """Whatever happens, every member is told, or tried once more."""
        leader = batch[0]
        in_parts = leader.division is not None or 0 < self._max_rows < leader.rows
        try:
            if in_parts:
                await self._execution.run_part(leader, self._max_rows)
            else:
                await self._execution.run(batch)
        except EdgedError as error:
            failure = error.with_traceback(None)  # whose frames have the batch, and that would stay with its answers
        except Exception:  # noqa: BLE001 - a defect, which costs this batch and not those that wait
            _log.exception("a batch met a defect of edged", model=self.resident.name)
            failure = EdgedError(Code.INTERNAL, "a defect of edged; its log says more", "please report it")
        else:
            if in_parts and not leader.answer.done():
                self._waiting.give_back(leader)
                if 0 < self._min_priority < leader.level:
                    self._shed([leader], self._too_low())
            return
        for pending in batch:
            if failure.code is Code.WORKER_CRASHED and self._refused(pending):
                continue
            if failure.code is Code.WORKER_CRASHED and not pending.retried and not pending.answer.done():
                pending.retried = True
                self._waiting.add(pending)
            else:
                resolve(pending, failure)
        await turn()  # what ended the worker is told first

    def _refused(self, pending: Pending) -> bool:
        """Whether a request cannot be executed for want of its shared memory; it is told then."""
        problem = pending.shared.problem() if pending.shared is not None else None
        if problem is not None:
            resolve(pending, named(self.resident, problem))
        return problem is not None

    def give_up(self, error: EdgedError) -> None:
        """Tells everybody who waits, or whose request a worker has, that no answer will come."""
        for pending in list(self._waiting):
            self._waiting.remove(pending)
            resolve(pending, error)
        for pending in self._executing:
            resolve(pending, error)

    def hand_on(self) -> None:
        """Tells everybody who waits that another answers from now on."""
        for pending in list(self._waiting):
            self._waiting.remove(pending)
            resolve(pending, HandedOnError(self.resident.name, pending.deadline))
        self.resident.changes.mark()

    async def drained(self) -> None:
        """Waits until nothing waits and nothing is executed."""
        while self._task is not None:
            await asyncio.wait([self._task])


def _late(model: str) -> EdgedError:
    return EdgedError(Code.DEADLINE_EXCEEDED, f"model {model!r} did not answer in time")
