"""What is no part of an update's own: workers without processes, a repository, callers, memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.bundle.factory import Found
from edged.bundle.manifest import Manifest, encode
from edged.errors import Code, EdgedError
from edged.models.memory import Fit, Need
from edged.models.resident import Resident
from edged.types import Comparison, Outcome, Sample
from edged.update import plan as plans
from edged.update.fetcher import Order
from edged.update.outcomes import Outcomes
from edged.worker.child import Exit
from edged.worker.messages import Compared, Form, Loaded
from edged.worker.usage import Usage
from support.published import NATURES, content, manifest, write

if TYPE_CHECKING:
    from support.whole_device import Life

_CALLS = 25
"""Requests that are enough for a soak's verdict."""

_WORKER_BYTES = 16 * 2**20
"""What each takes, about as much as a worker without weights is expected to."""


class Outside:
    """What lasts from one life of the daemon to the next, and what it meets; the test changes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: dict[str, int] = {}
        self.terms: dict[str, plans.ClassPlan] = {}
        """Of models of which the plan says more than that."""
        self.floors: dict[str, int] = {}
        self.broken: set[tuple[str, int]] = set()
        """Does not load on this device as it is now."""
        self.runtime = "1.0"
        self.exclusive = False
        """Each model has a device of its own, which one process at a time can have; so it stays."""
        self.factory = [self._install(*key) for key, nature in NATURES.items() if nature.factory]
        self.calm()

    def calm(self) -> None:
        """Nothing stands in the way of anything."""
        self.fetch = ""
        self.fetch_s = 0.5
        self.load_s = 0.2
        self.stop_s = 0.1
        self.release_s = 0.0
        self.job_s = 0.0
        self.capacity = 100
        self.journal_fails = ""
        self.broken = set()
        self.damaged: set[tuple[str, int]] = set()
        """Its files are not what was signed any more."""
        self.dying: set[tuple[str, int]] = set()
        """Its worker ends as it is loaded."""
        self.taken: set[tuple[str, int]] = set()
        """What it runs on is somebody else's for now."""

    def _install(self, model: str, revision: int) -> Found:
        folder = self.folder / "factory" / model / str(revision)
        found = manifest(model, revision)
        write(folder, found)
        return Found(model, revision, folder, found)


class Hand:
    """A worker: no process."""

    made = "by a test"
    excused = False
    verdict: EdgedError | None = None

    def __init__(self, life: Life, key: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        self.key = key
        self.pid = next(life.pids)
        self.ends = False
        """It has been told to, and nobody need wait for that."""
        self.loaded = Loaded(0.1, 0.0)
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._outside = life.outside
        self._hands = life.hands
        self._hands.append(self)

    def end(self, text: str = "exit status 0") -> None:
        """It is no more."""
        if not self.ended.done():
            self._hands.remove(self)
            self.ended.set_result(Exit(text))
            self.gone.set_result(None)

    async def golden(self, _: object) -> Compared:
        """As its nature is."""
        await asyncio.sleep(0.01)
        return self._compared(NATURES[self.key].golden)

    async def shadow(self, *_: object) -> Compared:
        """As its nature is."""
        await asyncio.sleep(0.01)
        return self._compared(NATURES[self.key].agrees)

    def _compared(self, good: bool) -> Compared:
        if self.ended.done():
            raise EdgedError(Code.WORKER_CRASHED, "the worker ended")
        return Compared([Comparison("y", 1, 0 if good else 1, 0.0, 1, 1 if good else 0, shape_matches=True)], 0.001)

    async def stop(self, _: float) -> Exit:
        """Takes its time; goes on where the caller gives up."""
        self.ends = True
        asyncio.get_running_loop().call_later(self._outside.stop_s, self.end)
        return await asyncio.shield(self.ended)

    retire = stop

    def usage(self) -> Usage:
        """As much as each."""
        return Usage(peak_bytes=_WORKER_BYTES)


class Repository:
    """Brings what is published, unless the test has it fail."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    async def bring_plan(self, *_: object) -> tuple[plans.Plan, dict[str, int]]:
        """What is wanted now."""
        await self._meet()
        terms = {model: plans.ClassPlan(revision=revision) for model, revision in self._outside.plan.items()}
        wanted = {model: {"c": each} for model, each in (terms | self._outside.terms).items()}
        return plans.Plan(fleet="f", models=wanted), dict(self._outside.floors)  # type: ignore[arg-type]

    async def bring_manifest(self, _: object, model: str, revision: int, *__: object) -> Manifest:
        """As it is published."""
        await self._meet()
        if (model, revision) not in NATURES:
            raise EdgedError(Code.REVISION_NOT_FOUND, f"there is no {model} {revision}")
        return manifest(model, revision)

    async def bring_revision(self, _: object, order: Order, __: object) -> None:
        """Into staging."""
        await self._meet()
        found = manifest(order.model, order.revision)
        blobs = order.staging / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        (order.staging / "manifest.json").write_bytes(encode(found))
        for at, file in enumerate(found.files):
            wrong = self._outside.fetch == "damages"
            (blobs / file.sha256).unlink(missing_ok=True)
            (blobs / file.sha256).write_bytes(b"wrong" if wrong else content(order.model, order.revision, at))

    async def _meet(self) -> None:
        await asyncio.sleep(self._outside.fetch_s)
        while self._outside.fetch == "hangs":  # noqa: ASYNC110 - until the test has it go on
            await asyncio.sleep(1)
        if self._outside.fetch in (Code.DOWNLOAD_FAILED, Code.DIGEST_MISMATCH, Code.STORAGE_FULL):
            raise EdgedError(Code(self._outside.fetch), "so the test wants it")


class Traffic:
    """Callers, who ask when the test says so."""

    def __init__(self, outside: Outside, outcomes: Outcomes) -> None:
        self._outside = outside
        self._outcomes = outcomes
        self._sinks: dict[str, Any] = {}

    def shadow(self, model: str, sink: Any) -> None:
        """Copies go there."""
        if sink is None:
            self._sinks.pop(model, None)
        else:
            self._sinks[model] = sink

    def ask(self, resident: Resident, *, ok: bool) -> None:
        """Some requests, of which each has its answer at once."""
        resident.wake()
        if not resident.ready:
            return
        ok = ok and NATURES[resident.name, resident.revision].answers
        code = "" if ok else str(Code.INFERENCE_FAILED)
        for _ in range(_CALLS):
            self._outcomes.take(Outcome(resident.name, resident.revision, ok, code, 0.01))
        if ok:
            resident.answered()
            if sink := self._sinks.get(resident.name):
                for _ in range(3):
                    sink(Sample(("x",), ((1,),), (Form.RAW,), (b"0000",), ("y",), ((1,),), (b"0000",)))

    async def release(self, _: Resident, limit_s: float) -> bool:
        """What was taken is answered in a while."""
        await asyncio.sleep(min(self._outside.release_s, limit_s))
        return self._outside.release_s <= limit_s

    def hand_on(self, _: Resident) -> None:
        """Nothing waits."""

    forget = hand_on


class Room:
    """Memory for so many workers; a model that matters more has others rest."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._promised = 0
        self._deciding = asyncio.Lock()

    @property
    def _left(self) -> int:
        loaded = sum(each.worker is not None for each in self._life.residency.all())
        return self._life.outside.capacity - max(self._promised, len(self._life.hands), loaded)

    def _may_go(self, name: str) -> list[Resident]:
        return [each for each in self._life.residency.all() if each.steady and each.name > name]

    @contextlib.asynccontextmanager
    async def ask(self, need: Need) -> AsyncIterator[None]:
        """Raises EdgedError (memory_short)."""
        async with self._deciding:
            going = self._may_go(need.manifest.name)
            if self._left + len(going) <= 0:
                raise EdgedError(Code.MEMORY_SHORT, f"{self._left} left for {need.manifest.name}")
            if self._left <= 0:
                for each in going:
                    each.rest(f"it made room for {need.manifest.name}")
                try:
                    async with asyncio.timeout(30):
                        while any(each.ready or each.variant is not None for each in going):
                            await self._life.changes.after(self._life.changes.count)
                except TimeoutError:
                    raise EdgedError(Code.MEMORY_SHORT, "they did not go") from None
            self._promised += 1
        try:
            yield
        finally:
            self._promised -= 1

    async def judge(self, need: Need, serving: int) -> Fit:
        """Whether it would find room; what is asked for may be that of two."""
        name, count = need.manifest.name, round(need.peak_bytes / _WORKER_BYTES)
        left = self._left + len(self._may_go(name))
        resident = self._life.residency.find(name, serving)
        more = left + (resident is not None and resident.worker is not None)
        return Fit(left >= count, more >= count, f"{left} left")
