"""Admits loads to memory: reads what is left, and has what matters less make room, or refuses with the numbers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from edged.config.pressure import Pressure
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.models.memory import Fit, Need
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.pressure import sensors_memory
from edged.pressure.acting import IdleS
from edged.pressure.admission import Headroom, Loaded, admit, headroom
from edged.pressure.readings import Memory
from edged.worker import usage

# How long what makes room may take to answer what it has.
_EVICT_S = 30.0

_HINT = "unload a model, or see pressure.memory_limit_mib and pressure.memory_reserve_mib"


class Room:
    """One for the daemon. Loads are admitted one after the other; what was promised to one is not given to another."""

    def __init__(
        self,
        root: Path,
        residency: Residency,
        idle_s: IdleS,
        events: EventLog,
        settings: Pressure,
        templates: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`templates`: the process ids of the warm ones, by engine."""
        self.settings = settings
        self._root = root
        self._residency = residency
        self._idle_s = idle_s
        self._templates = templates
        self._events = events
        self._deciding = asyncio.Lock()
        self._promised_bytes = 0

    @contextlib.asynccontextmanager
    async def ask(self, need: Need) -> AsyncIterator[None]:
        """Holds what `need` says while it is being loaded. Raises EdgedError (memory_short) when that is not left."""
        async with self._deciding:
            await self._admit(need)
            self._promised_bytes += need.peak_bytes
        try:
            yield
        finally:
            self._promised_bytes -= need.peak_bytes

    async def _admit(self, need: Need) -> None:
        """Has others make room until it is there: sizes are estimates, and a worker that is lost keeps what it had."""
        while going := await self._ask_to_go(need):
            await self._wait_gone(need, going)

    async def _ask_to_go(self, need: Need) -> Sequence[Resident]:
        """Those that rest from now on for what is missing; none where enough is left. Raises EdgedError."""
        memory, taken_bytes = await asyncio.to_thread(self._read, self._pids())
        may_go = self._may_go(need)
        loaded = [self._loaded(called, each) for called, each in may_go.items()]
        manifest = need.manifest
        verdict = admit(manifest.name, need.peak_bytes, manifest.priority, self._left(memory, taken_bytes), loaded)
        details = {"revision": manifest.revision, "variant": need.variant.name, "peak_bytes": need.peak_bytes}
        if not verdict.admitted:
            raise EdgedError(Code.MEMORY_SHORT, verdict.text, _HINT)
        if not verdict.evict:
            return ()
        self._events.record(Severity.WARNING, "memory_made", manifest.name, verdict.text, **details)
        going = [may_go[called] for called in verdict.evict]
        for each in going:
            each.rest(f"it made room in memory for model {manifest.name}")
        return going

    async def _wait_gone(self, need: Need, going: Sequence[Resident]) -> None:
        """Raises EdgedError (memory_short) where one of them still answers what it has."""
        try:
            async with asyncio.timeout(_EVICT_S):
                while any(each.ready or each.variant is not None for each in going):
                    await self._residency.changes.after(self._residency.changes.count)
        except TimeoutError:
            names = ", ".join(map(_called, going))
            text = f"model {need.manifest.name!r} waited for room: {names} did not go within {_EVICT_S:g} s"
            raise EdgedError(Code.MEMORY_SHORT, text, _HINT) from None

    def _pids(self) -> list[int]:
        """All of edged that lasts, where the settings bound what that takes: front, templates, workers, lost ones."""
        if not self.settings.memory_limit_mib:
            return []
        workers = [each.worker for each in self._residency.all() if each.worker]
        workers += [lost.worker for each in self._residency.all() for lost in each.lost]
        return [os.getpid(), *self._templates().values(), *(worker.pid for worker in workers)]

    async def judge(self, need: Need, serving: int) -> Fit:
        """Whether what `need` says would be left now, or once revision `serving` of its model had no worker."""
        memory, taken_bytes = await asyncio.to_thread(self._read, self._pids())
        manifest = need.manifest
        loaded = [self._loaded(called, each) for called, each in self._may_go(need).items()]
        resident = self._residency.find(manifest.name, serving)
        freed_bytes = self._loaded(manifest.name, resident).size_bytes if resident else 0
        left = self._left(memory, taken_bytes)
        more = msgspec.structs.replace(left, left_bytes=left.left_bytes + freed_bytes)
        beside, instead = (
            admit(manifest.name, need.peak_bytes, manifest.priority, each, loaded) for each in (left, more)
        )
        return Fit(beside.admitted, instead.admitted, beside.text)

    def _may_go(self, need: Need) -> dict[str, Resident]:
        """What may have to make room: not another revision of the same model, which requests come for."""
        name = need.manifest.name
        return {_called(each): each for each in self._residency.all() if each.steady and each.name != name}

    def _read(self, pids: Sequence[int]) -> tuple[Memory | None, int]:
        """What is left of the machine, and what these processes take. What they share counts once."""
        taken_bytes = sum(usage.pss_bytes(pid) or usage.own_bytes(pid) for pid in pids)
        return sensors_memory.read(self._root, sensors_memory.groups(self._root)), taken_bytes

    def _left(self, memory: Memory | None, taken_bytes: int) -> Headroom:
        limit_bytes, reserve_bytes = self.settings.memory_limit_mib * 2**20, self.settings.memory_reserve_mib * 2**20
        room = headroom(memory, taken_bytes, limit_bytes, reserve_bytes)
        if not self._promised_bytes:
            return room
        text = f"{room.text}, and {self._promised_bytes // 2**20} MiB are promised to what loads now"
        return Headroom(room.left_bytes - self._promised_bytes, text)

    def _loaded(self, called: str, resident: Resident) -> Loaded:
        idle_s = self._idle_s(resident)
        taken = resident.worker.usage() if resident.worker else usage.Usage()
        return Loaded(
            called,
            taken.private_bytes + taken.arena_bytes,
            resident.manifest.priority,
            idle_s if idle_s >= self.settings.idle_s else 0.0,
        )


def _called(resident: Resident) -> str:
    return f"{resident.name} revision {resident.revision}"
