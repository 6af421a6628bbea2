"""A device whose updates are real, from the agent to journal, store and residents; workers and repository are not.

Workers load, answer and die as the revision's nature and the test say. Time is virtual: see `virtual_time`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from edged.changes import Changes
from edged.config.settings import Workers
from edged.config.update import Update
from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.models.library import Library
from edged.models.memory import Memory
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.store import Store
from edged.serving.repository import Repository as Orders
from edged.system.hardware import Hardware
from edged.types import Level
from edged.update.administration import Administration
from edged.update.agent import Agent
from edged.update.environment import Environment
from edged.update.journal import Journal
from edged.update.markers import Markers
from edged.update.outcomes import Outcomes
from edged.update.share import Device
from edged.update.shop import Ledger, Shop
from edged.worker.messages import Load
from support.hands import Hand, Outside, Repository, Room, Traffic
from support.published import NATURES
from support.virtual_time import VirtualLoop


class FailingJournal(Journal):
    """Of which a test may have every write fail: before it was made to survive, or at the markers alone."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        state = outside.folder / "state"
        state.mkdir(exist_ok=True)
        super().__init__(state, outside.folder / "runtime")
        self._markers = FailingMarkers(state / "markers", outside)

    @contextlib.contextmanager
    def _transaction(self):  # type: ignore[no-untyped-def]
        if self._outside.journal_fails == "rows":
            raise EdgedError(Code.JOURNAL_UNWRITABLE, "so the test wants it: rows")
        with super()._transaction():
            yield


class FailingMarkers(Markers):
    """As the journal that they belong to."""

    def __init__(self, folder: Path, outside: Outside) -> None:
        super().__init__(folder)
        self._outside = outside

    def put(self, kind: str, name: str, document: bytes) -> None:
        """Fails, or writes it."""
        self._fail()
        super().put(kind, name, document)

    def remove(self, kind: str, name: str) -> None:
        """Fails, or removes it."""
        self._fail()
        super().remove(kind, name)

    def _fail(self) -> None:
        if self._outside.journal_fails == "markers":
            raise OSError(errno.EIO, "so the test wants it: markers")


class Life:
    """One life of the daemon, from its start to a power cut or its end."""

    def __init__(self, outside: Outside) -> None:
        self.outside = outside
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._take_exception)
        self.defects: list[str] = []
        self.pids = iter(range(1, 1_000_000))
        self.hands: list[Hand] = []
        self.changes = Changes()
        self.residency = Residency(self.changes)
        self.ready = False
        self.ordered: set[str] = set()
        """Models of which somebody ordered what is loaded: that holds until the next start."""
        self.loaded: dict[str, int] = {}
        """What they had loaded last, where nothing was unloaded since."""
        self.renewing: Counter[Resident] = Counter()
        """What somebody has restarted just now."""
        self._tasks: set[asyncio.Task[Any]] = set()
        room, outcomes, events = Room(self), Outcomes(), EventLog(200)
        memory = Memory(room.ask, room.judge)
        runtimes = {"onnxruntime": outside.runtime}
        self.traffic = Traffic(outside, outcomes)

        def make_resident(source: Any) -> Resident:
            return Resident(
                source,
                Hardware("c"),
                runtimes,
                Workers(),
                self.changes,
                events,
                None,
                memory=memory,  # type: ignore[arg-type]
            )

        state = outside.folder / "state"
        self.journal = FailingJournal(outside)
        self.shop = Shop(
            settings=Update(repository="https://r", shadow_max_s=10.0),
            ledger=Ledger(self.journal),
            library=Library(Store(state / "store"), outside.factory),
            residency=self.residency,
            memory=memory,
            traffic=self.traffic,  # type: ignore[arg-type]
            fetcher=Repository(outside),  # type: ignore[arg-type]
            outcomes=outcomes,
            environment=Environment(runtimes, "", ""),
            events=events,
            changes=self.changes,
            make_resident=make_resident,
            level=lambda: Level.NOMINAL,
            drain_s=lambda: 5.0,
            state_folder=state / "update",
            build_time=None,
            fetching=asyncio.Semaphore(1),
            trying=asyncio.Semaphore(1),
        )
        self.agent = Agent(self.shop, Device("d", "f", "c"), lambda _: None, lambda _: None)
        self.administration = Administration(self.agent)
        self.orders = Orders(self.residency, self._release, events)
        self._running = self._spawn(self._start())

    async def _release(self, resident: Resident) -> bool:
        return await self.traffic.release(resident, 5.0)

    async def _start(self) -> None:
        await self.agent.begin()
        running = self._spawn(self.agent.run())
        await self.agent.begun()
        for source in (self.shop.library.factory(model) for model in self.shop.library.models()):
            for each in source:
                self.residency.know(self.shop.make_resident(each))
        self.ready = True
        await running

    async def start_worker(self, load: Load, *_: object) -> Hand:
        """In place of `edged.worker.process.start`."""
        key = (Path(load.source.folder).parent.name, int(Path(load.source.folder).name))
        alone = not any(each.key[0] == key[0] for each in self.hands)
        hand = Hand(self, key)
        try:
            if self.outside.exclusive and not alone:
                raise EdgedError(Code.DEVICE_UNAVAILABLE, "so the test wants it: another process has it")
            await asyncio.sleep(self.outside.load_s)
            if hand.ended.done() or key in self.outside.dying:
                raise EdgedError(Code.WORKER_CRASHED, "it ended as it was loaded")
            if key in self.outside.taken:
                raise EdgedError(Code.DEVICE_UNAVAILABLE, "so the test wants it: it is taken")
            if key in self.outside.damaged:
                raise EdgedError(Code.DIGEST_MISMATCH, "so the test wants it")
            if not NATURES[key].loads or key in self.outside.broken:
                raise EdgedError(Code.LOAD_FAILED, "so the test wants it")
        except BaseException:
            hand.end()
            raise
        return hand

    def _take_exception(self, _: object, context: dict[str, Any]) -> None:
        self.defects.append(f"{context.get('message')}: {context.get('exception')!r}")

    def order(self, wanted: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Somebody wants something, and may be refused."""

        async def carry_out() -> None:
            with contextlib.suppress(EdgedError):
                await wanted()

        self._spawn(carry_out())

    def _spawn(self, wanted: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(wanted)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.defects.append(repr(error))

    def pass_turns(self, count: int) -> None:
        """The loop turns."""

        async def turn() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self._go(turn())

    def pass_time(self, seconds: float) -> None:
        """That much later."""
        self._go(asyncio.sleep(seconds))

    def do(self, what: Callable[[], object]) -> None:
        """Something that takes no time, in the loop."""

        async def once() -> None:
            what()

        self._go(once())

    def _go(self, what: Coroutine[Any, Any, Any]) -> None:
        self.loop.job_s = self.outside.job_s
        self.loop.run_until_complete(what)

    def cut(self) -> None:
        """The power goes."""
        self.loop.cut()
        self.journal.close()

    def end(self) -> list[str]:
        """The daemon ends as it should; gives what it left."""

        async def end() -> None:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.orders.stop()
            await self.agent.close()
            await self.residency.stop()

        self._go(end())
        left = [f"the task {task.get_name()}" for task in asyncio.all_tasks(self.loop)]
        left += [f"a worker of {each.key}" for each in self.hands if not each.ends]
        self.loop.cut()
        return left


def seed_chance(seed: int) -> None:
    """What is left to chance is the same each time."""
    random.seed(seed)
