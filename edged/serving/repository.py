"""Loads and unloads models while others serve: which revisions of a model have a worker, by order of a person.

A revision is loaded beside the one that serves and takes its place when it is ready; only then does the other one go.
What a revision has taken is answered before its worker ends. An order holds until the next one, or the daemon's next
start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.models import routes
from edged.models.residency import Residency
from edged.models.resident import Resident

# Orders that wait or are carried out; a person gives one after the other.
_MAX_ORDERS = 64

Release = Callable[[Resident], Awaitable[bool]]


class Repository:
    """The revisions on this device, and the orders to load and unload them."""

    def __init__(self, residency: Residency, release: Release, events: EventLog) -> None:
        """`release` waits until what a resident has taken is answered, and says whether all of it was."""
        self._residency = residency
        self._release = release
        self._events = events
        self._orders: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def known(self) -> list[Resident]:
        """Every revision that is on the device, by model name and revision."""
        return self._residency.known()

    async def load(self, model: str, revision: int | None) -> None:
        """Has `revision` serve, loaded if need be; None: the one that serves, or did last.

        Goes on where the caller gives up. Raises EdgedError: model_not_found, revision_not_found, revision_not_served
        where an update has it on trial, or load_failed.
        """
        self._find(model, revision)
        await self._order(model, lambda: self._load(model, revision))

    async def unload(self, model: str) -> None:
        """Ends all workers of a model once they have answered what they took; its memory goes back.

        Goes on where the caller gives up. Raises EdgedError (model_not_found).
        """
        self._find(model, None)
        await self._order(model, lambda: self._unload(model))

    def _find(self, model: str, revision: int | None) -> Resident:
        name, serving = routes.resolve(self._residency.routes, model, "")
        known = {each.revision: each for each in self._residency.known() if each.name == name}
        found = known.get(serving if revision is None else revision)
        if found is None:
            raise EdgedError(
                Code.REVISION_NOT_FOUND,
                f"model {name!r} has no revision {revision or serving} on this device",
                f"it has {', '.join(map(str, known))}",
            )
        if self._residency.on_trial(found):
            raise EdgedError(
                Code.REVISION_NOT_SERVED,
                f"an update has revision {found.revision} of model {name!r} on trial",
                f"it serves once it has passed; `edgectl explain {name}` tells how it stands",
            )
        return found

    async def _order(self, model: str, order: Callable[[], Awaitable[None]]) -> None:
        """Carries out one order after the other for each model."""
        if len(self._tasks) >= _MAX_ORDERS:
            raise EdgedError(Code.OVERLOADED, f"{len(self._tasks)} orders are being carried out", "try again later")

        async def carry_out() -> None:
            async with self._orders.setdefault(model, asyncio.Lock()):
                await order()

        task = asyncio.create_task(carry_out(), name=f"order for {model}")
        self._tasks.add(task)
        task.add_done_callback(self._carried_out)
        await asyncio.shield(task)

    def _carried_out(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever gave the order may have gone

    async def _load(self, model: str, revision: int | None) -> None:
        resident = self._find(model, revision)  # only now: an update may have ended it, or begun it anew
        before = self._residency.get(resident.name, self._residency.routes[resident.name].serving)
        if resident.loaded and resident.settled and not resident.ready and not resident.expected:
            resident.leave("it is loaded again")
            await resident.stop()
            resident = self._find(model, resident.revision)
        if not resident.loaded:
            resident.start()
        resident.wake()
        await self._settled(resident)
        if not resident.ready:
            reason = resident.reason
            if before is not resident:
                resident.leave(reason)
                await resident.stop(reason)
            self._residency.refresh(resident.name)
            raise EdgedError(
                Code.LOAD_FAILED,
                f"revision {resident.revision} of model {resident.name!r} is not ready: {reason}",
                f"revision {before.revision} serves on" if before.ready else "`edgectl events` says more",
            )
        self._residency.flip(resident.name, resident.revision)
        others = [
            each
            for each in self._residency.all()
            if each.name == resident.name
            and each is not resident
            and each.loaded
            and not self._residency.on_trial(each)
        ]
        await self._end(others, f"revision {resident.revision} took its place")

    async def _unload(self, model: str) -> None:
        loaded = [each for each in self._residency.all() if each.name == model and each.loaded]
        await self._end(loaded, f"somebody asked for that; `edgectl load {model}` has it serve again")

    async def _settled(self, resident: Resident) -> None:
        """Waits until a worker is there, or cannot be expected soon; a worker's own limits bound that."""
        while resident.loading and (not resident.settled or resident.expected):
            await resident.changes.after(resident.changes.count)

    async def _end(self, residents: list[Resident], why: str) -> None:
        for resident in residents:
            resident.leave(f"it answers what it took, then goes: {why}")
            self._residency.refresh(resident.name)
        for resident in residents:
            in_time = await self._release(resident)
            if not resident.leaving or not await resident.stop(why):
                continue  # an update has gone back to it meanwhile
            severity, late = (Severity.INFO, "") if in_time else (Severity.WARNING, "; not all it took was answered")
            message = f"revision {resident.revision} is unloaded: {why}{late}"
            self._events.record(severity, "model_unloaded", resident.name, message, revision=resident.revision)

    async def stop(self) -> None:
        """Gives up what is being carried out: the daemon ends."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
