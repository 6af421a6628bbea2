"""The use cases of serving, the same for every transport."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Hashable, Iterator

from edged import clock
from edged.config.settings import Serving as Settings
from edged.errors import Code, EdgedError
from edged.facts import Fact, Unanswered
from edged.models import routes
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.serving.admission import Admitted, admit, check_contents
from edged.serving.busy import Busy
from edged.serving.duty import Duty
from edged.serving.execution import unavailable
from edged.serving.gate import Gate
from edged.serving.nap import Nap
from edged.serving.overload import Bounds
from edged.serving.regions import Regions
from edged.serving.request import Answer, Call
from edged.serving.scheduler import HandedOnError, Queue
from edged.serving.statistics import is_outcome, may_be_its_own
from edged.types import Level, Limits, Outcome, Sample

# Requests come in few signatures; a caller that varies them without end must not fill the memory.
_SIGNATURES_KEPT = 256


class Service:
    """Answers requests from what is resident."""

    def __init__(
        self, residency: Residency, settings: Settings, add_fact: Callable[[Fact], None] | None = None
    ) -> None:
        """`add_fact` hears what became of each request that reached a model."""
        self._add_fact = add_fact
        self.regions = Regions()
        self._residency = residency
        self._settings = settings
        self._queues: dict[tuple[str, int], Queue] = {}
        self._admitted: dict[tuple[str, int], dict[Hashable, Admitted]] = {}
        self._limits = Limits()
        self._gate = Gate()
        self._duty = Duty()
        self._busy = Busy()
        self._nap = Nap()
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._observers: list[Callable[[Outcome], None]] = []
        self._shadows: dict[str, Callable[[Sample], None]] = {}

    def close(self) -> None:
        """Lets go of what the system gave it, once nothing is under way any more."""
        self._nap.close()
        self.regions.close()

    def observe(self, observer: Callable[[Outcome], None]) -> None:
        """Tells `observer` what becomes of each request from now on."""
        self._observers.append(observer)

    def shadow(self, model: str, sink: Callable[[Sample], None] | None) -> None:
        """Copies the requests that `model` answers, with the answers, to `sink`; None ends that."""
        if sink is None:
            self._shadows.pop(model, None)
        else:
            self._shadows[model] = sink

    def limit(self, limits: Limits) -> None:
        """Takes what models may do now: rates, rows, priorities, and how many at a time, and how much, may compute."""
        self._limits = limits
        self._gate.most = limits.max_concurrency
        self._duty.share = limits.duty
        for (model, _), queue in self._queues.items():
            queue.limit(limits.of(model))

    @property
    def level(self) -> Level:
        """How hard the device is pressed, as the limits in force say."""
        return self._limits.level

    @property
    def duty(self) -> float:
        """The share of time in which inferences may run, as the limits in force say."""
        return self._limits.duty

    def apply(self, settings: Settings) -> None:
        """Takes changed bounds and time-outs; what waits already stays."""
        self._settings = settings
        for queue in self._queues.values():
            queue.bounds = self._bounds()

    async def infer(
        self,
        call: Call,
        remaining_s: float | None,
        render: Callable[[Answer], bytes],
        best_priority: int = 1,
        *,
        handed_on: bool = False,
    ) -> bytes:
        """Answers a request with what `render` makes of it, within `remaining_s` where the transport knows a deadline.

        A request that asks for a better priority than `best_priority` gets that; one that was `handed_on` was taken in
        before. Raises EdgedError. A cancelled caller's work is not begun.
        """
        resident = self.find(call.model, call.version)
        began = self._loop.time()
        until = began + self._timeout_s(call, remaining_s)
        try:
            answer = await self._ask(resident, call, until, render, best_priority, handed_on=handed_on)
        except HandedOnError as error:
            within_s = error.deadline - self._loop.time()
            return await self.infer(call, within_s, render, best_priority, handed_on=True)
        except EdgedError as error:
            other = self._other(resident, call, error)
            if other is None:
                if is_outcome(error.code):
                    self._tell(resident, error.code, began)
                raise
            # Where this one fails too, the request is at fault.
            try:
                answer = await self._ask(other, call, until, render, best_priority)
            except HandedOnError as again:
                within_s = again.deadline - self._loop.time()
                return await self.infer(call, within_s, render, best_priority, handed_on=True)
            self._tell(resident, error.code, began)
            return answer
        self._tell(resident, "", began)
        return answer

    def _other(self, resident: Resident, call: Call, error: EdgedError) -> Resident | None:
        """Who may answer instead while the one that failed is new, or has just been gone back on.

        Not after a hang, which has cost the caller's time already, and not where a revision was named.
        """
        if call.version or error.code is Code.WORKER_HANG or self._stopping or not may_be_its_own(error.code):
            return None
        revision = self._residency.routes[call.model].other(resident.revision)
        other = self._residency.find(call.model, revision)
        return other if revision != resident.revision and other is not None and other.expected else None

    def _tell(self, resident: Resident, code: str, began: float) -> None:
        if self._observers:
            took_s = self._loop.time() - began
            outcome = Outcome(resident.name, resident.revision, not code, code, took_s)
            for observer in self._observers:
                observer(outcome)

    async def _ask(
        self,
        resident: Resident,
        call: Call,
        until: float,
        render: Callable[[Answer], bytes],
        best_priority: int,
        *,
        handed_on: bool = False,
    ) -> bytes:
        """One attempt until `until` on the loop's clock, counted for the revision that made it."""
        queue = self.queue(resident)
        arrived_ns = clock.monotonic_ns()
        sink = self._shadows.get(call.model)
        if sink is not None:
            render = functools.partial(_copied, sink, call, render)
        try:
            return await self._infer(resident, queue, call, until, render, best_priority, handed_on=handed_on)
        except HandedOnError:  # whoever answers counts it
            raise
        except EdgedError as error:
            queue.statistics.count_error(error.code, clock.monotonic_ns() - arrived_ns)
            self._add_unanswered(resident, error.code)
            raise
        except asyncio.CancelledError:
            queue.statistics.count_error(Code.CANCELLED, 0)
            self._add_unanswered(resident, Code.CANCELLED)
            raise

    def _add_unanswered(self, resident: Resident, code: Code) -> None:
        if self._add_fact is not None:
            variant = resident.variant.name if resident.variant else ""
            self._add_fact(Unanswered(resident.name, resident.revision, variant, code))

    async def _infer(
        self,
        resident: Resident,
        queue: Queue,
        call: Call,
        until: float,
        render: Callable[[Answer], bytes],
        best_priority: int,
        *,
        handed_on: bool,
    ) -> bytes:
        if self._stopping:
            raise _shutting_down()
        known = self._admitted.setdefault((resident.name, resident.revision), {})
        admitted = known.get(call.signature)
        if admitted is None:
            admitted = admit(resident.manifest, call)
            if len(known) >= _SIGNATURES_KEPT:
                known.clear()
            known[call.signature] = admitted
        check_contents(resident.manifest, admitted, call.contents)
        shared = self.regions.resolve(call, len(admitted.outputs))
        if not resident.expected:
            raise unavailable(resident)
        level = resident.manifest.queue.level(call.priority, best_priority)
        return await queue.run(
            admitted, call.contents, until, render, level, shared, handed_on=handed_on, synthetic=call.synthetic
        )

    def _timeout_s(self, call: Call, remaining_s: float | None) -> float:
        """Whichever ends first of the transport's and the request's own, where there is one; else the setting."""
        timeout_s = call.timeout_s if remaining_s is None else remaining_s
        if timeout_s is None:
            return self._settings.default_timeout_s
        return timeout_s if call.timeout_s is None else min(timeout_s, call.timeout_s)

    def find(self, model: str, version: str) -> Resident:
        """The resident that answers for a model and version. Raises EdgedError when there is none."""
        return self._residency.get(*routes.resolve(self._residency.routes, model, version))

    def model_ready(self, model: str, version: str) -> bool:
        """Whether a model answers, if only once it is loaded again. Raises EdgedError when there is no such model."""
        resident = self.find(model, version)
        return (resident.ready or resident.resting) and not self._stopping

    def ready(self) -> bool:
        """Whether every model that should serve does, or rests; a daemon without models is ready."""
        serving = self._residency.serving()
        return not self._stopping and all(resident.ready or resident.resting for resident in serving)

    def busy_s(self) -> float:
        """The seconds in which inferences have run so far, of at most one for each second that passes."""
        return self._busy.seconds(clock.monotonic_ns())

    def idle_s(self, resident: Resident) -> float:
        """For how long nobody has asked for a resident; 0 while it has requests."""
        queue = self.queue(resident)
        busy = queue.waiting or queue.executing
        return 0.0 if busy else (clock.monotonic_ns() - queue.asked_ns) / 1e9

    def proven(self, resident: Resident, within_s: float) -> bool | None:
        """Whether the requests of callers show that a resident has worked within so long."""
        return self.queue(resident).proven(within_s)

    def residents(self, model: str, version: str) -> list[Resident]:
        """What is or was loaded: all of it, or of one model, or one revision of that. Raises EdgedError as `find`."""
        if model and version:
            return [self.find(model, version)]
        if model:
            self.find(model, "")
        return [resident for resident in self._residency.all() if model in ("", resident.name)]

    def versions(self, model: str) -> tuple[int, ...]:
        """The revisions of a model that may be named."""
        return self._residency.routes[model].loaded

    def queue(self, resident: Resident) -> Queue:
        """The queue of a resident."""
        key = (resident.name, resident.revision)
        queue = self._queues.get(key)
        if queue is None or queue.resident is not resident:  # the revision was installed anew
            if queue is not None:
                queue.hand_on()
            self._admitted.pop(key, None)
            shared = (self._gate, self._duty, self._busy, self._nap)
            queue = self._queues[key] = Queue(resident, self._bounds(), *shared, self._add_fact)
            queue.limit(self._limits.of(resident.name))
        return queue

    async def release(self, resident: Resident, limit_s: float) -> bool:
        """Waits until what a resident has taken is answered; whether all of it was in time. What was not is told so."""
        queue = self.queue(resident)
        try:
            async with asyncio.timeout(limit_s):
                await queue.drained()
        except TimeoutError:
            queue.give_up(unavailable(resident))
            return False
        return True

    def hand_on(self, resident: Resident) -> None:
        """Has what waits for a resident answered by whoever the route names now, within the same deadlines."""
        self.queue(resident).hand_on()

    def collect(self) -> Iterator[Fact]:
        """What workers have counted of results since the last time."""
        for queue in self._queues.values():
            yield from queue.observed.collect()

    def forget(self, resident: Resident) -> None:
        """Forgets the queue of a resident that was released and is gone for good, with what it counted."""
        key = (resident.name, resident.revision)
        queue = self._queues.pop(key, None)
        if queue is not None and self._add_fact is not None:
            for fact in queue.observed.collect():
                self._add_fact(fact)
        self._admitted.pop(key, None)

    async def drain(self, limit_s: float) -> bool:
        """Refuses what comes from now on and waits for what is here; whether all of it was answered in time.

        What was not is told so.
        """
        self._stopping = True
        self._residency.changes.mark()
        waiting = [asyncio.ensure_future(queue.drained()) for queue in self._queues.values()]
        if not waiting:
            return True
        _, late = await asyncio.wait(waiting, timeout=limit_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for queue in self._queues.values():
            queue.give_up(_shutting_down())
        return not late

    def _bounds(self) -> Bounds:
        settings = self._settings
        return Bounds(settings.queue_requests, settings.queue_mib * 1024 * 1024, settings.queue_delay_ms / 1000)


def _copied(sink: Callable[[Sample], None], call: Call, render: Callable[[Answer], bytes], answer: Answer) -> bytes:
    """Renders an answer, and gives a copy of it with its request to `sink`.

    What lies in shared memory is others' and may have changed by now, classes are not what the model gave to be
    compared, and of what is made up no two revisions need to think alike: such a request is not copied.
    """
    if call.synthetic or call.shares_memory or any(asked.classes for asked in call.outputs):
        return render(answer)
    sink(
        Sample(
            inputs=tuple(meta.name for meta in call.inputs),
            shapes=tuple(meta.shape for meta in call.inputs),
            forms=tuple(int(content.form) for content in call.contents),
            contents=tuple(b"".join(content.parts) for content in call.contents),
            outputs=tuple(output.name for output in answer.outputs),
            expected_shapes=tuple(output.shape for output in answer.outputs),
            expected=tuple(bytes(output.data) for output in answer.outputs),
        )
    )
    return render(answer)


def _shutting_down() -> EdgedError:
    return EdgedError(Code.SHUTTING_DOWN, "the daemon is stopping", "try again when it is back")
