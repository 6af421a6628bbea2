"""A queue of the scheduler before a stand-in worker, on a loop whose clock only the test moves."""

from __future__ import annotations

import asyncio
from typing import Any

from edged.bundle.manifest import Manifest
from edged.errors import Code, EdgedError
from edged.models.states import State
from edged.serving.admission import admit
from edged.serving.busy import Busy
from edged.serving.duty import Duty
from edged.serving.gate import Gate
from edged.serving.overload import Bounds
from edged.serving.scheduler import Queue
from support.standins import Clock, Naps, Resident, as_it_is, call, settle

FAR_S = 3600.0


class Bench:
    """A queue before a stand-in worker."""

    def __init__(self, bounds: Bounds, of: Manifest | None = None, gate: Gate | None = None) -> None:
        self.clock = Clock()
        self.resident = Resident(of)
        self.worker = self.resident.worker
        self.gate = gate or Gate()
        self.duty = Duty()
        self.nap = Naps()
        self.queue = Queue(self.resident, bounds, self.gate, self.duty, Busy(), self.nap)
        self.callers: list[asyncio.Task[Any]] = []

    def send(
        self, rows: int = 1, columns: int = 2, within_s: float = FAR_S, level: int = 1, *, handed_on: bool = False
    ) -> asyncio.Task[Any]:
        """A caller that waits for its answer."""
        request = call(rows, columns)
        deadline = asyncio.get_running_loop().time() + within_s
        admitted = admit(self.resident.manifest, request)
        asked = self.queue.run(admitted, request.contents, deadline, as_it_is, level, handed_on=handed_on)
        caller = asyncio.create_task(asked)
        self.callers.append(caller)
        return caller

    @property
    def executed(self) -> list[list[int]]:
        """The rows of each member of each batch that the worker got."""
        return [asked.rows for asked in self.worker.asked]

    def answer_all(self) -> None:
        """The worker answers whatever it has."""
        for worker in {self.worker, self.resident.worker} - {None}:
            for asked in worker.asked:
                if not asked.reply.done():
                    asked.answer()

    async def busy(self) -> asyncio.Task[Any]:
        """The worker has a request, so that others wait."""
        caller = self.send()
        await settle()
        assert self.queue.executing == 1
        return caller

    async def end(self) -> None:
        """Everybody is told something, and nothing is left."""
        if not self.resident.ready:
            self.resident.goes(State.UNAVAILABLE, "the test is over")
        for caller in self.callers:
            caller.cancel()
        while not all(caller.done() for caller in self.callers) or self.queue.waiting or self.queue.executing:
            self.answer_all()
            await settle()
        await asyncio.gather(*self.callers, return_exceptions=True)
        self.nap.close()


def code(caller: asyncio.Task[Any]) -> Code:
    """What a caller that got no answer was told."""
    error = caller.exception()
    assert isinstance(error, EdgedError), error
    return error.code
