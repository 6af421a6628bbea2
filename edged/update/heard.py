"""What the fetcher told: kept for the next one, for a day's budget, and for the time."""

from __future__ import annotations

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


class Heard:
    """All of it."""

    def __init__(self) -> None:
        self.roles: dict[str, str] = {}
        self.lacks: list[str] = []
        """What the kernel does not hold the fetcher by, in words."""
        self.issued: datetime | None = None
        """The newest signed issue time."""
        self._spending = Spending()

    def take(self, facts: Mapping[str, Any]) -> None:
        """Takes one thing that it told."""
        begins = facts.get("event") == "metadata"
        if begins:
            # A repository need not tell of every role: what was accepted of the others still holds.
            told = {str(role): str(version) for role, version in facts["roles"].items()}
            self.roles = {**self.roles, **told}
            self.issued = _time(facts.get("issued"))
        if facts.get("event") == "confined":
            self.lacks = [str(each) for each in facts["lacks"]]
        if "received" in facts:
            self._spending.count(int(facts["received"]), begins=begins, day=_today())

    def budget_bytes(self, daily_mib: int) -> int:
        """What may still be fetched today; -1: no bound."""
        return self._spending.left(daily_mib * 2**20, _today()) if daily_mib else -1

    async def keep(self, ledger: Ledger) -> None:
        """Keeps what is to be known after the next start."""
        with contextlib.suppress(EdgedError):  # the metadata itself is kept; this is the second place
            await ledger.do(ledger.journal.keep_fact, _ROLES, msgspec.json.encode(self.roles))
            await ledger.do(ledger.journal.keep_fact, _SPENDING, msgspec.json.encode(self._spending))

    async def recall(self, ledger: Ledger) -> None:
        """Reads what was kept."""
        self.roles = await _fact(ledger, _ROLES, dict[str, str]) or {}
        self._spending = await _fact(ledger, _SPENDING, Spending) or Spending()


async def _fact(ledger: Ledger, name: str, kind: type[Any]) -> Any:
    document = await ledger.do(ledger.journal.fact, name)
    with contextlib.suppress(msgspec.MsgspecError):
        return None if document is None else msgspec.json.decode(document, type=kind)
    return None


def _time(told: object) -> datetime | None:
    try:
        return msgspec.convert(told, datetime | None)
    except msgspec.ValidationError:
        return None


def _today() -> str:
    return f"{clock.wall():%Y-%m-%d}"
