"""The use cases of serving, the same for every transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from edged import clock
from edged.config.settings import Serving as Settings
from edged.errors import Code, EdgedError
from edged.facts import Fact, Unanswered
from edged.models import routes
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.serving.admission import Admitted, admit, check_contents
from edged.serving.request import Answer, Call
from edged.serving.scheduler import Bounds, Queue, unavailable

# Requests come in few signatures; a caller that varies them without end must not fill the memory.
_SIGNATURES_KEPT = 256


class Service:
    """Answers requests from what is resident."""

    def __init__(self, residency: Residency, settings: Settings, tell: Callable[[Fact], None] | None = None) -> None:
        """`tell` hears what became of each request that reached a model."""
        self._tell = tell
        self._residency = residency
        self._settings = settings
        self._queues: dict[tuple[str, int], Queue] = {}
        self._admitted: dict[tuple[str, int], dict[Hashable, Admitted]] = {}
        self._stopping = False

    def apply(self, settings: Settings) -> None:
        """Takes changed bounds and time-outs; what waits already stays."""
        self._settings = settings
        for queue in self._queues.values():
            queue.bounds = self._bounds()

    async def infer(self, call: Call, remaining_s: float | None, render: Callable[[Answer], bytes]) -> bytes:
        """Answers a request with what `render` makes of it, within `remaining_s` where the transport knows a deadline.

        Raises EdgedError. A cancelled caller's work is not begun.
        """
        resident = self.find(call.model, call.version)
        queue = self.queue(resident)
        try:
            answer = await self._infer(resident, queue, call, remaining_s, render)
        except EdgedError as error:
            queue.statistics.count_error(error.code)
            self._tell_unanswered(resident, error.code)
            raise
        except asyncio.CancelledError:
            queue.statistics.count_error(Code.CANCELLED)
            self._tell_unanswered(resident, Code.CANCELLED)
            raise
        queue.statistics.ok += 1
        queue.statistics.last_success = clock.wall()
        return answer

    def _tell_unanswered(self, resident: Resident, code: Code) -> None:
        if self._tell is not None:
            variant = resident.variant.name if resident.variant else ""
            self._tell(Unanswered(resident.name, resident.revision, variant, code))

    async def _infer(
        self,
        resident: Resident,
        queue: Queue,
        call: Call,
        remaining_s: float | None,
        render: Callable[[Answer], bytes],
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
        if not resident.expected:
            raise unavailable(resident)
        limits = [limit for limit in (remaining_s, call.timeout_s) if limit is not None]
        timeout_s = min(limits) if limits else self._settings.default_timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
        return await queue.run(admitted, call.contents, deadline, render)

    def find(self, model: str, version: str) -> Resident:
        """The resident that answers for a model and version. Raises EdgedError when there is none."""
        return self._residency.get(*routes.resolve(self._residency.routes, model, version))

    def model_ready(self, model: str, version: str) -> bool:
        """Whether a model answers now. Raises EdgedError when there is no such model."""
        return self.find(model, version).ready and not self._stopping

    def ready(self) -> bool:
        """Whether every model that should serve does; a daemon without models has nothing to serve and is ready."""
        return not self._stopping and all(resident.ready for resident in self._residency.serving())

    def versions(self, model: str) -> tuple[int, ...]:
        """The revisions of a model that may be named."""
        return self._residency.routes[model].loaded

    def queue(self, resident: Resident) -> Queue:
        """The queue of a resident."""
        key = (resident.name, resident.revision)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(resident, self._bounds(), self._tell)
        return queue

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
        return Bounds(self._settings.queue_requests, self._settings.queue_mib * 1024 * 1024)


def _shutting_down() -> EdgedError:
    return EdgedError(Code.SHUTTING_DOWN, "the daemon is stopping", "try again when it is back")
