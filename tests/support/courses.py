"""A course with a real journal, whose stages end when the test says so, and what updates work with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edged.changes import Changes
from edged.config.update import Update
from edged.events import EventLog
from edged.models.library import Library
from edged.models.memory import Memory
from edged.models.residency import Residency
from edged.models.store import Store
from edged.types import Level
from edged.update.course import Course
from edged.update.environment import Environment
from edged.update.journal import Journal
from edged.update.machine import Effect, Event, Happened, Phase, Ref, Soaked, State
from edged.update.outcomes import Outcomes
from edged.update.said import Said, Stage, said
from edged.update.shop import Ledger, Shop
from support.polling import until_async

ONE, TWO = Ref(1, "1" * 64), Ref(2, "2" * 64)
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def make_shop(folder: Path, **parts: Any) -> Shop:
    """With a journal and a store in `folder`; `parts` replace what it would have."""
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    changes = Changes()
    given: dict[str, Any] = {
        "settings": Update(),
        "ledger": Ledger(Journal(state, folder / "runtime")),
        "library": Library(Store(state / "store"), []),
        "residency": Residency(changes),
        "memory": Memory(),
        "traffic": None,
        "fetcher": None,
        "outcomes": Outcomes(),
        "environment": Environment({}, "", ""),
        "events": EventLog(100),
        "changes": changes,
        "make_resident": None,
        "level": lambda: Level.NOMINAL,
        "drain_s": lambda: 1.0,
        "state_folder": state / "update",
        "build_time": None,
        "fetching": asyncio.Semaphore(1),
        "trying": asyncio.Semaphore(1),
    }
    return Shop(**given | parts)


class Conditions:
    """The terms of an agent that the test sets."""

    def __init__(self) -> None:
        self.shut = ""
        self.pauses: dict[Phase, str] = {}

    def gate(self, _: str) -> str:
        """Why no route may flip."""
        return self.shut

    def paused(self, phase: Phase) -> str:
        """Why nothing is done in a phase."""
        return self.pauses.get(phase, "")


class Script:
    """Stages of which each waits for what the test has it say; what they were asked is kept in order."""

    manifest = None
    soaked: Soaked | None = None

    def __init__(self) -> None:
        self.did: list[str] = []
        self._say: asyncio.Queue[Said | Exception] = asyncio.Queue()

    def of(self, effect: Effect) -> Stage:
        """The stage that an effect begins."""

        async def stage(_: State) -> Said:
            self.did.append(effect.value)
            found = await self._say.get()
            if isinstance(found, Exception):
                raise found
            return found

        return stage

    def say(self, found: Event | Said | Exception, text: str = "") -> None:
        """Has the stage that is under way, or the next one, end so."""
        self._say.put_nowait(said(found, text) if isinstance(found, Event) else found)

    async def rest(self, _: State) -> Said:
        """Waits while a soak is paused."""
        return await self._say.get()  # type: ignore[return-value]

    async def swap_back(self, _: State) -> None:
        """Takes back that two revisions changed places."""
        self.did.append("swap_back")

    async def flip_over(self, _: State) -> None:
        """Routes to the new one."""
        self.did.append("flip_over")

    async def flip_back(self, *_: object) -> None:
        """Routes to the one before."""
        self.did.append("flip_back")

    async def end_trial(self, *_: object) -> None:
        """Ends the new one."""
        self.did.append("end_trial")

    def resident(self, *_: object) -> None:
        """There is none."""

    def hurry(self) -> None:
        """Nothing is downloaded."""


class Running:
    """A course under way, from `state`."""

    def __init__(self, folder: Path, state: State) -> None:
        self.shop = make_shop(folder, library=SimpleNamespace(find=lambda *_: None, store=Store(folder / "store")))
        self.terms, self.script = Conditions(), Script()
        self.course = Course(state, self.shop, self.terms)  # type: ignore[arg-type]
        self.course.stages = self.script  # type: ignore[assignment]

    async def __aenter__(self) -> Running:
        self._task = asyncio.create_task(self.course.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self.shop.ledger.close()

    async def stop(self) -> None:
        """Ends it where it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def state(self) -> State:
        """Where it stands."""
        return self.course.state

    def post(self, event: Event, text: str = "", **fields: Any) -> None:
        """Something happens outside."""
        self.course.post(Happened(event, text, **fields))

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until it is so."""
        await until_async(condition, "the course stands so", log=lambda: f"{self.state}\n{self.steps()}")

    def steps(self) -> list[str]:
        """What the journal says happened."""
        return [each.event for each in self.shop.ledger.journal.history()]
