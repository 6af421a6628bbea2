"""The use cases of serving, the same for every transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from edged import clock
from edged.config.settings import Serving as Settings
from edged.errors import Code, EdgedError
from edged.models import routes
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.serving.admission import Admitted, admit, check_contents
from edged.serving.busy import Busy
from edged.serving.duty import Duty
from edged.serving.overload import Bounds
from edged.serving.regions import Regions
from edged.serving.request import Answer, Call
from edged.serving.scheduler import Queue, unavailable
from edged.types import Level, Limits

# Requests come in few signatures; a caller that varies them without end must not fill the memory.
_SIGNATURES_KEPT = 256


class Service:
    """Answers requests from what is resident."""

    def __init__(self, residency: Residency, settings: Settings) -> None:
        self.regions = Regions()
        self._residency = residency
        self._settings = settings
        self._queues: dict[tuple[str, int], Queue] = {}
        self._admitted: dict[tuple[str, int], dict[Hashable, Admitted]] = {}
        self._limits = Limits()
        self._duty = Duty()
        self._busy = Busy()
        self._loop = asyncio.get_running_loop()
        self._stopping = False

    def limit(self, limits: Limits) -> None:
        """Takes what models may do now: rates, rows, priorities, and the share of time in which all may compute."""
        self._limits = limits
        self._duty.share = limits.duty
        for (model, _), queue in self._queues.items():
            queue.limit(limits.of(model))

    @property
    def level(self) -> Level:
        """How hard the device is pressed, as the limits in force say."""
        return self._limits.level

    def apply(self, settings: Settings) -> None:
        """Takes changed bounds and time-outs; what waits already stays."""
        self._settings = settings
        for queue in self._queues.values():
            queue.bounds = self._bounds()

    async def infer(
        self, call: Call, remaining_s: float | None, render: Callable[[Answer], bytes], best_priority: int = 1
    ) -> bytes:
        """Answers a request with what `render` makes of it, within `remaining_s` where the transport knows a deadline.

        A request that asks for a better priority than `best_priority` gets that. Raises EdgedError. A cancelled
        caller's work is not begun.
        """
        resident = self.find(call.model, call.version)
        queue = self.queue(resident)
        arrived_ns = clock.monotonic_ns()
        try:
            return await self._infer(resident, queue, call, remaining_s, render, best_priority)
        except EdgedError as error:
            queue.statistics.count_error(error.code, clock.monotonic_ns() - arrived_ns)
            raise
        except asyncio.CancelledError:
            queue.statistics.count_error(Code.CANCELLED, 0)
            raise

    async def _infer(
        self,
        resident: Resident,
        queue: Queue,
        call: Call,
        remaining_s: float | None,
        render: Callable[[Answer], bytes],
        best_priority: int,
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
        timeout_s = call.timeout_s if remaining_s is None else remaining_s
        if timeout_s is None:
            timeout_s = self._settings.default_timeout_s
        elif call.timeout_s is not None and call.timeout_s < timeout_s:
            timeout_s = call.timeout_s
        level = resident.manifest.queue.level(call.priority, best_priority)
        return await queue.run(admitted, call.contents, self._loop.time() + timeout_s, render, level, shared)

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
        if queue is None:
            queue = self._queues[key] = Queue(resident, self._bounds(), self._duty, self._busy)
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


def _shutting_down() -> EdgedError:
    return EdgedError(Code.SHUTTING_DOWN, "the daemon is stopping", "try again when it is back")
