"""What the fetcher told: kept for the next one, for a day's budget, for the time and for what may run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from edged import clock
from edged.errors import EdgedError
from edged.update.shop import Ledger
from edged.update.spending import Spending

# Accepted role versions, kept in the journal as well as beside the metadata.
_ROLES = "roles"
_SPENDING = "spending"
_FLOORS = "floors"

# What was spent is kept for each so many bytes, and so often at most: each time is a write to the disk.
_KEPT_BYTES = 2**20
_GATHER_S = 5.0


class Heard:
    """All of it."""

    def __init__(self) -> None:
        self.roles: dict[str, str] = {}
        self.floors: dict[str, int] = {}
        """By model, the lowest revision that was ever signed as allowed."""
        self.lacks: list[str] = []
        """What the kernel does not hold the fetcher by, in words."""
        self.issued: datetime | None = None
        """The newest signed issue time."""
        self._spending = Spending()
        self._news = asyncio.Event()
        self._kept_bytes = 0
        """Of the day's, those that were kept last."""
        self._kept: dict[str, bytes] = {}
        """What was written last, which is not written again."""

    def take(self, facts: Mapping[str, Any]) -> None:
        """Takes one thing that it told."""
        event = facts.get("event")
        if event == "metadata":
            # A repository need not tell of every role: what was accepted of the others still holds.
            told = {str(role): str(version) for role, version in facts["roles"].items()}
            self.roles = {**self.roles, **told}
            self.issued = _time(facts.get("issued"))
        if event == "confined":
            self.lacks = [str(each) for each in facts["lacks"]]
        if "received" in facts:
            self._spending.count(facts["more"], _today())
            if event != "progress" or abs(self._spending.received - self._kept_bytes) >= _KEPT_BYTES:
                self._news.set()

    def raise_floors(self, floors: Mapping[str, int]) -> None:
        """Takes the signed floors of models; none is ever lowered."""
        for model, floor in floors.items():
            self.floors[model] = max(floor, self.floors.get(model, 1))

    def budget_bytes(self, daily_mib: int) -> int:
        """What may still be fetched today; -1: no bound."""
        return self._spending.left(daily_mib * 2**20, _today()) if daily_mib else -1

    async def keep_spending(self, ledger: Ledger) -> None:
        """Keeps what was spent while it is being spent, until it is cancelled: the next start has no new budget."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self.keep(ledger)
            await asyncio.sleep(_GATHER_S)

    async def keep(self, ledger: Ledger) -> None:
        """Keeps what is to be known after the next start."""
        self._kept_bytes = self._spending.received
        found = {_ROLES: self.roles, _FLOORS: self.floors, _SPENDING: self._spending}
        documents = {name: msgspec.json.encode(each) for name, each in found.items()}
        with contextlib.suppress(EdgedError):  # it is tried again after the next look, and told elsewhere
            for name, document in documents.items():
                if document != self._kept.get(name):
                    await ledger.do(ledger.journal.keep_fact, name, document)
                    self._kept[name] = document

    async def recall(self, ledger: Ledger) -> None:
        """Reads what was kept. Raises EdgedError."""
        self.roles = await ledger.recall(_ROLES, dict[str, str]) or {}
        self.floors = await ledger.recall(_FLOORS, dict[str, int]) or {}
        self._spending = await ledger.recall(_SPENDING, Spending) or Spending()


def _time(told: object) -> datetime | None:
    try:
        return msgspec.convert(told, datetime | None)
    except msgspec.ValidationError:
        return None


def _today() -> str:
    return f"{clock.wall():%Y-%m-%d}"
