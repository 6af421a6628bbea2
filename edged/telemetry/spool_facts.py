"""What a spool knows of itself, a word and a text each: one table of its file. All of it blocks."""

from __future__ import annotations

import msgspec
import sqlite_utils

from edged.telemetry.messages import Lost
from edged.telemetry.window import Totals

SCHEMA = "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"

# What SQLite holds in a number.
_MOST_DIGITS = 18


class Facts:
    """The table, in an open spool. Everything raises sqlite3.Error."""

    def __init__(self, db: sqlite_utils.Database) -> None:
        self._db = db

    def number(self, name: str, default: int | None = None) -> int:
        """Raises ValueError where it is none, or is not there and has no default."""
        text = self._text(name)
        if text is None and default is not None:
            return default
        if text is None:
            raise ValueError(f"its fact {name} is not there")
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise ValueError(f"its fact {name} is no number but {text[:40]!r}")
        return int(text)

    def totals(self) -> Totals:
        """Everything that was counted. Raises ValueError where they are none."""
        text = self._text("totals")
        if text is None and not self._had_windows():  # an older release wrote them with the first
            return Totals()
        try:
            return msgspec.json.decode(text or "", type=Totals)
        except msgspec.MsgspecError as error:
            raise ValueError(f"its totals are none: {error}") from error

    def _had_windows(self) -> bool:
        return bool(self.lost().windows or self._db.execute("SELECT 1 FROM rows WHERE kind = 'window'").fetchone())

    def lost(self) -> Lost:
        """What could not be kept. Raises ValueError."""
        return Lost(self.number("lost_windows", 0), self.number("lost_events", 0))

    def lose(self, kind: str, count: int) -> None:
        """Counts so many windows or events (`kind`) as lost. Raises ValueError."""
        if count:
            name = f"lost_{kind}s"
            self.put(**{name: self.number(name, 0) + count})

    def put(self, **facts: int | str) -> None:
        """They are so from now on."""
        for name, value in facts.items():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, str(value)))

    def _text(self, name: str) -> str | None:
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])
