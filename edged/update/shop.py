"""What every model's update works with: the journal from a thread of its own, the models, serving, the repository."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import msgspec

from edged.changes import Changes
from edged.config.update import Update
from edged.events import EventLog
from edged.models.library import Library
from edged.models.memory import Memory
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.states import Source
from edged.types import Level, Outcome, Sample
from edged.update.environment import Environment
from edged.update.fetcher import Fetcher
from edged.update.journal import Journal
from edged.update.outcomes import Outcomes

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Traffic(Protocol):
    """What serving does for an update."""

    def observe(self, observer: Callable[[Outcome], None]) -> None:
        """Tells what becomes of each request."""

    def shadow(self, model: str, sink: Callable[[Sample], None] | None) -> None:
        """Copies requests and answers of a model to `sink`."""

    async def release(self, resident: Resident, limit_s: float) -> bool:
        """Waits until a withdrawn resident's requests are answered; whether all were."""

    def hand_on(self, resident: Resident) -> None:
        """Has what waits for a resident answered by whoever the route names now."""

    def forget(self, resident: Resident) -> None:
        """Forgets what was kept for a resident that has gone."""


class Ledger:
    """The journal, asked from the loop: one question after the other, in a thread."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def do(self, method: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The result of one of the journal's methods; what was begun is finished, even when the caller gives up."""
        call = functools.partial(method, *args, **kwargs)
        found = asyncio.get_running_loop().run_in_executor(self._thread, call)
        # Who gave up hears nothing of it, which is no defect.
        found.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(found)

    async def recall(self, name: str, kind: type[_T]) -> _T | None:
        """The fact of that name; None where there is none, or one that nobody can read. Raises EdgedError."""
        document = await self.do(self.journal.fact, name)
        with contextlib.suppress(msgspec.MsgspecError):
            return None if document is None else msgspec.json.decode(document, type=kind)
        return None

    async def close(self) -> None:
        """Finishes what was begun and closes the journal."""
        await self.do(self.journal.close)
        self._thread.shutdown()


class Shop(msgspec.Struct, kw_only=True):
    """All that a course works with."""

    settings: Update
    ledger: Ledger
    library: Library
    residency: Residency
    memory: Memory
    traffic: Traffic
    fetcher: Fetcher
    outcomes: Outcomes
    environment: Environment
    events: EventLog
    changes: Changes
    make_resident: Callable[[Source], Resident]
    level: Callable[[], Level]
    drain_s: Callable[[], float]
    state_folder: Path
    build_time: datetime | None
    """When the image was built; None where it does not say."""
    fetching: asyncio.Semaphore
    """One download at a time: the link is shared by all."""
    trying: asyncio.Semaphore
    """One trial at a time: a small device has room for one more model, hardly for two."""
