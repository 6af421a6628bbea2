"""Commands that were accepted, until somebody has their answer: two tables of the spool. All of it blocks.

A nonce and its order are kept in one transaction before anything is done, the answer before it is told: a command is
carried out or answered after a kill, and never begun by the same nonce twice.
"""

from __future__ import annotations

from enum import Enum

import msgspec
import sqlite_utils
from sqlite_utils.db import Table

from edged.telemetry.messages import Command, Result

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS nonces (nonce TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, document BLOB)",
)

_MOST_NONCES = 2_000
MOST = 32
"""Orders that wait to be done or told; of those that wait to be told, the oldest makes room."""


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One accepted command."""

    command: Command
    operator: str
    envelope: bytes
    """As it came, still signed."""
    topics: tuple[str, ...]
    """Where its answers go."""
    correlation: bytes = b""
    resumed: int = 0
    """How often it was begun again after edged had ended."""
    handed_on: bool = False
    """Whether it was given to the operating system's helper, who answers."""
    answer: Result | None = None
    """What became of it, not yet told."""


class Accepted(Enum):
    """Whether an order was taken in."""

    NEW = "new"
    REPLAYED = "replayed"
    TOO_MANY = "too many"


class Orders:
    """The tables, in an open spool. Everything raises sqlite3.Error, and changes nothing then."""

    def __init__(self, db: sqlite_utils.Database) -> None:
        self._db = db

    def accept(self, order: Order, now_ms: int) -> Accepted:
        """Keeps an order, and its nonce until that expires."""
        nonces, orders, nonce = Table(self._db, "nonces"), Table(self._db, "orders"), order.command.nonce
        with self._db.atomic():
            if self.knows(nonce):
                return Accepted.REPLAYED
            if (
                nonces.count >= _MOST_NONCES
            ):  # no sooner: a clock that was wrong for a while must not make room for replays
                nonces.delete_where("expires_ms < ?", [now_ms])
            if nonces.count >= _MOST_NONCES or not self._make_room():
                return Accepted.TOO_MANY
            nonces.insert({"nonce": nonce, "expires_ms": order.command.expires_ms})
            orders.insert({"nonce": nonce, "document": msgspec.json.encode(order)})
            return Accepted.NEW

    def knows(self, nonce: str) -> bool:
        """Whether an order of that nonce was accepted, as far as that is remembered."""
        return bool(Table(self._db, "nonces").count_where("nonce = ?", [nonce]))

    def _make_room(self) -> bool:
        found = self.all()
        if len(found) < MOST:
            return True
        for order in found:
            if order.answer is not None:
                self.end(order.command.nonce)
                return True
        return False

    def change(self, order: Order) -> bool:
        """Keeps what is new about an order; False where it has ended, or was never kept: then it stays so."""
        with self._db.atomic():
            found = self._db.execute(
                "UPDATE orders SET document = ? WHERE nonce = ?", (msgspec.json.encode(order), order.command.nonce)
            )
            return bool(found.rowcount)

    def end(self, nonce: str) -> None:
        """Forgets an order; its nonce stays until it expires."""
        with self._db.atomic():
            Table(self._db, "orders").delete_where("nonce = ?", [nonce])

    def all(self) -> list[Order]:
        """Those that have not ended, as they came; what is none is forgotten."""
        found = []
        for number, document in self._db.execute("SELECT number, document FROM orders ORDER BY number").fetchall():
            try:
                found.append(msgspec.json.decode(document, type=Order))
            except (msgspec.MsgspecError, TypeError):
                with self._db.atomic():
                    Table(self._db, "orders").delete_where("number = ?", [number])
        return found
