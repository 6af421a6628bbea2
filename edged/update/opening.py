"""Opens what updates stand on: the journal, the store, the agent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edged.bundle.factory import Found
from edged.changes import Changes
from edged.config.settings import Settings
from edged.errors import EdgedError
from edged.events import EventLog, Severity
from edged.models.library import Library
from edged.models.memory import Memory
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.states import Source
from edged.models.store import Store
from edged.types import Level
from edged.update import environment
from edged.update.agent import Agent
from edged.update.environment import Environment
from edged.update.fetcher import Fetcher
from edged.update.journal import Journal
from edged.update.outcomes import Outcomes
from edged.update.share import Device
from edged.update.shop import Ledger, Shop, Traffic


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon gives its agent."""

    root: Path
    settings: Settings
    """Their paths under the root."""
    environment: Environment
    factory: Sequence[Found]
    residency: Residency
    memory: Memory
    traffic: Traffic
    events: EventLog
    changes: Changes
    make_resident: Callable[[Source], Resident]
    level: Callable[[], Level]
    drain_s: Callable[[], float]
    degrade: Callable[[str], None]
    recover: Callable[[str], None]


def open_agent(parts: Parts) -> Agent:
    """The agent, its journal open. Raises EdgedError where not even a journal for this start alone can be made."""
    settings = parts.settings
    state, runtime = Path(settings.paths.state), Path(settings.listen.admin_socket).parent / "journal"
    journal = _journal(state, runtime, parts)
    store = Store(state / "store", settings.update.quota_mib * 2**20, settings.update.reserve_mib * 2**20)
    outcomes = Outcomes()
    parts.traffic.observe(outcomes.take)
    shop = Shop(
        settings=settings.update,
        ledger=Ledger(journal),
        library=Library(store, parts.factory),
        residency=parts.residency,
        memory=parts.memory,
        traffic=parts.traffic,
        fetcher=Fetcher(),
        outcomes=outcomes,
        environment=parts.environment,
        events=parts.events,
        changes=parts.changes,
        make_resident=parts.make_resident,
        level=parts.level,
        drain_s=parts.drain_s,
        state_folder=state / "update",
        build_time=environment.build_time(parts.root),
        fetching=asyncio.Semaphore(1),
        trying=asyncio.Semaphore(1),
    )
    device = Device(settings.device.name or socket.gethostname(), settings.device.fleet, settings.device.hardware_class)
    return Agent(shop, device, parts.degrade, parts.recover)


def _journal(state: Path, runtime: Path, parts: Parts) -> Journal:
    try:
        journal = Journal(state, runtime)
    except EdgedError as error:
        parts.events.record(Severity.ERROR, error.code, "journal", str(error))
        journal = Journal(runtime, runtime)
        journal.stand_in(f"the journal cannot be opened: {error.message}")
        parts.degrade(journal.problem)
        return journal
    if journal.problem:
        parts.events.record(Severity.ERROR, "journal_problem", "journal", journal.problem)
        parts.degrade(journal.problem)
    return journal
