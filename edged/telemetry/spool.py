"""Windows and events on disk until somebody has them: one SQLite file with a cap. Not for the loop: all of it blocks.

A window is one transaction, made durable before its number can be seen by anybody: a power cut never gives one number
to two windows. Rows are ordered by (epoch, number); the epoch changes only when a spool is made anew.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import sqlite_utils
import zstandard
from sqlite_utils.db import Table

from edged import durable
from edged.telemetry import coarsening, orders
from edged.telemetry.coarsening import Row
from edged.telemetry.messages import Event, Happening, Lost, Telemetry
from edged.telemetry.orders import Orders
from edged.telemetry.window import Totals, Window, merge

NAME = "spool.db"
_EPOCH = "epoch"
_DAMAGED = "spool.damaged.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    last INTEGER PRIMARY KEY, first INTEGER NOT NULL, kind TEXT NOT NULL, grade INTEGER NOT NULL DEFAULT 0,
    span_ms INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0,
    payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_VERSION = 1

# What lies beside the rows: the write-ahead log before it is copied back, and what a transaction needs for a while.
_MARGIN_BYTES = 512 * 1024
_LOG_PAGES = 32
_PAGE_BYTES = 4096
LEAST_CAP_BYTES = 2 * _MARGIN_BYTES

# Events may fill this share of the room for rows; outcomes and decisions go last.
_EVENT_SHARE = 4

MOST_TAKEN = 64
"""Rows handed out at a time."""

# An hour of windows whose ends came a little early.
_NEARLY_AN_HOUR_MS = 58 * 60_000

_COMPRESSOR = zstandard.ZstdCompressor(level=9, write_checksum=True)
_DECOMPRESSOR = zstandard.ZstdDecompressor()
_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024


class _Kept(msgspec.Struct, frozen=True):
    """What a window's row holds."""

    window: Window
    totals: Totals


class Outgoing(msgspec.Struct, frozen=True):
    """A row handed out: `payload` is JSON, not yet compressed."""

    last: int
    kind: str
    """window or event."""
    payload: bytes


class Standing(msgspec.Struct, frozen=True):
    """How a spool is."""

    epoch: int
    sequence: int
    windows: int
    events: int
    handed_out: int
    used_bytes: int
    cap_bytes: int
    lost: Lost


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is not what was written, and not that the disk is full or read-only.

    Python cannot tell what SQLite says of a schema that is no text any more, and gives no code where a text is none.
    """
    no_text = isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode")
    if isinstance(error, UnicodeDecodeError) or no_text or str(error).startswith(("no such ", "unsupported ")):
        return True
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Spool:
    """One open spool, to be used by one thread."""

    def __init__(self, folder: Path, cap_bytes: int, now_ms: int) -> None:
        """Opens or makes it. A damaged one is set aside, which `problem` then tells. `now_ms` is trusted time.

        Raises sqlite3.Error or OSError where neither can be done (a full or read-only disk).
        """
        self.problem = ""
        self._folder = folder
        self._cap_bytes = max(cap_bytes, LEAST_CAP_BYTES)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._db = self._open(now_ms)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not is_damage(error):
                raise
            self._set_aside(str(error))
            self._db = self._open(now_ms)
        self.orders = Orders(self._db)
        """Commands that were accepted."""
        self.epoch = int(self._fact("epoch", 0))
        self._totals = msgspec.json.decode(self._fact("totals", "{}"), type=Totals)

    def _open(self, now_ms: int) -> sqlite_utils.Database:
        connection = sqlite3.connect(self._folder / NAME, isolation_level=None, check_same_thread=False)
        try:
            for pragma in (
                "journal_mode = WAL",
                "synchronous = FULL",
                f"max_page_count = {(self._cap_bytes - _MARGIN_BYTES // 2) // _PAGE_BYTES}",
                f"wal_autocheckpoint = {_LOG_PAGES}",
                f"journal_size_limit = {_LOG_PAGES * _PAGE_BYTES}",
                "cache_size = -256",
                "temp_store = MEMORY",
            ):
                connection.execute(f"PRAGMA {pragma}")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                damage = sqlite3.DatabaseError(verdict)
                damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise damage
            db = sqlite_utils.Database(connection)
            with db.atomic():
                if not connection.execute("PRAGMA user_version").fetchone()[0]:
                    for statement in filter(str.strip, _SCHEMA.split(";")):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
                    epoch = self._next_epoch(now_ms)
                    self._put(db, epoch=epoch, next=1, made_ms=now_ms)
                for statement in orders.SCHEMA:  # also in one that an older release made
                    connection.execute(statement)
                # A clock that was ahead when it was made must not leave commands unchecked until that time comes.
                connection.execute(
                    "UPDATE facts SET value = ? WHERE name = 'made_ms' AND CAST(value AS INTEGER) > ?",
                    (str(now_ms), now_ms),
                )
            return db
        except BaseException:
            connection.close()
            raise

    def _next_epoch(self, now_ms: int) -> int:
        """Higher than any before: the marker outlives the database, and the clock stands in where both are gone."""
        marker = self._folder / _EPOCH
        before = 0
        with contextlib.suppress(OSError, ValueError):
            before = int(marker.read_text()[:20])
        epoch = max(before + 1, now_ms // 1000)
        durable.write(marker, f"{epoch}\n".encode())
        return epoch

    def _set_aside(self, why: str) -> None:
        database = self._folder / NAME
        for suffix in ("-wal", "-shm"):
            database.with_name(NAME + suffix).unlink(missing_ok=True)
        durable.place(database, self._folder / _DAMAGED)
        self.problem = f"the spool was damaged ({why}) and is set aside as {self._folder / _DAMAGED}; a new one is made"

    def close(self) -> None:
        """Closes the file."""
        self._db.conn.close()

    def append_window(self, window: Window) -> int:
        """Keeps a window and gives its number. Raises sqlite3.Error, and keeps nothing then."""
        totals = self._totals.with_window(window)
        with self._db.atomic():
            self._make_room()
            number = self._insert("window", _pack(_Kept(window, totals)), span_ms=window.span_ms)
            self._put(self._db, totals=msgspec.json.encode(totals).decode())
        self._totals = totals
        return number

    def append_event(self, event: Happening, *, kept: bool) -> int:
        """Keeps an event and gives its number; `kept`: an outcome or a decision. Raises sqlite3.Error."""
        with self._db.atomic():
            self._make_room()
            return self._insert("event", _pack(event), kept=int(kept))

    def _insert(self, kind: str, payload: bytes, **others: int) -> int:
        number = int(self._fact("next", 1))
        self._table("rows").insert({"last": number, "first": number, "kind": kind, "payload": payload, **others})
        self._put(self._db, next=number + 1)
        return number

    def take(self, limit: int, *, coarse: bool, all_now: bool = False) -> list[Outgoing]:
        """The next rows to send: events first, then windows, each oldest first; at most `limit`. They never change now.

        `coarse`: windows go out by the hour, and one that is not full yet only with `all_now`. Raises sqlite3.Error.
        """
        found: list[Outgoing] = []
        limit = min(limit, MOST_TAKEN)  # the log of one transaction lies beside the rows
        with self._db.atomic():
            for kind in ("event", "window"):
                after = 0
                while len(found) < limit and (row := self._next(kind, after, coarse=coarse, all_now=all_now)):
                    after = int(row["last"])
                    if not row["sent"]:
                        self._table("rows").update(after, {"sent": 1})
                    if payload := self._message(row):
                        found.append(Outgoing(after, kind, payload))
        return found

    def _next(self, kind: str, after: int, *, coarse: bool, all_now: bool) -> dict[str, Any] | None:
        """The first row after number `after`; a window of grade 0 becomes one of an hour first where that is wanted."""
        row = next(iter(self._rows("kind = ? AND last > ?", (kind, after), limit=1)), None)
        if row is None or kind == "event" or row["sent"] or row["grade"] or not coarse:
            return row
        run = coarsening.run_to_merge(self._windows("last > ?", (after,)), 0)
        following = self._db.execute("SELECT COUNT(*) FROM rows WHERE kind = 'window' AND last > ?", (after,))
        whole = sum(each.span_ms for each in run) >= _NEARLY_AN_HOUR_MS or following.fetchone()[0] > max(len(run), 1)
        if not (whole or all_now):
            return None
        if run:
            self._merge(run, 1)
            return self._next(kind, after, coarse=coarse, all_now=all_now)
        return row

    def _message(self, row: dict[str, Any]) -> bytes | None:
        """A row as it goes out; one that is not what was written is dropped, and counted."""
        numbers = {"epoch": self.epoch, "first": int(row["first"]), "last": int(row["last"])}
        try:
            if row["kind"] == "event":
                return msgspec.json.encode(Event(**numbers, event=_unpack(row["payload"], Happening)))
            kept = _unpack(row["payload"], _Kept)
        except ValueError:
            self._lose([int(row["last"])], row["kind"])
            return None
        window = kept.window.without_zeros()
        return msgspec.json.encode(Telemetry(**numbers, window=window, totals=kept.totals, lost=self._lost()))

    def acknowledge(self, numbers: Sequence[int]) -> None:
        """Somebody has these rows. Raises sqlite3.Error."""
        with self._db.atomic():
            self._delete(numbers)

    def give_up(self, rows: Sequence[Outgoing]) -> None:
        """Nobody can have these rows: they go, and are counted in `lost`. Raises sqlite3.Error."""
        with self._db.atomic():
            for row in rows:
                self._lose([row.last], row.kind)

    @property
    def made_ms(self) -> int:
        """Wall time in ms since 1970 when it was made: it remembers no nonce from before."""
        return int(self._fact("made_ms", 0))

    def standing(self) -> Standing:
        """How it is."""
        counted = dict(self._db.execute("SELECT kind, COUNT(*) FROM rows GROUP BY kind").fetchall())
        return Standing(
            epoch=self.epoch,
            sequence=int(self._fact("next", 1)) - 1,
            windows=counted.get("window", 0),
            events=counted.get("event", 0),
            handed_out=self._table("rows").count_where("sent = 1"),
            used_bytes=self.used_bytes(),
            cap_bytes=self._cap_bytes,
            lost=self._lost(),
        )

    def _make_room(self) -> None:
        """Merges the oldest neighbours until the next row fits; drops only what can neither be merged nor kept."""
        room = self._cap_bytes - _MARGIN_BYTES
        events_query = "SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM rows WHERE kind = 'event'"
        while self._db.execute(events_query).fetchone()[0] > room // _EVENT_SHARE:
            oldest = "SELECT last FROM rows WHERE kind = 'event' ORDER BY kept, last LIMIT 1"
            self._lose([self._db.execute(oldest).fetchone()[0]], "event")
        while self.used_bytes() > room:
            windows = self._windows("1", (), limit=-1)
            for grade in range(len(coarsening.SPANS_MS)):
                if run := coarsening.run_to_merge(windows, grade):
                    self._merge(run, grade + 1)
                    break
            else:
                if pair := coarsening.pair_to_merge(windows):
                    self._merge(pair, max(row.grade for row in pair))
                elif windows:
                    self._lose([windows[0].last], "window")
                else:
                    return

    def coarsen(self) -> None:
        """Makes hours and days of all windows that have not been handed out. Raises sqlite3.Error.

        The file does not shrink: what comes next takes the place of what went.
        """
        for grade in range(len(coarsening.SPANS_MS)):
            while run := coarsening.run_to_merge(self._windows("1", (), limit=-1), grade):
                with self._db.atomic():  # each for itself, or the log would grow on a disk that has no room for it
                    self._merge(run, grade + 1)

    def _merge(self, run: Sequence[Row], grade: int) -> None:
        rows = list(self._rows("kind = 'window' AND last BETWEEN ? AND ?", (run[0].last, run[-1].last)))
        kept = []
        for row in rows:
            try:
                kept.append(_unpack(row["payload"], _Kept))
            except ValueError:
                self._put(self._db, lost_windows=int(self._fact("lost_windows", 0)) + 1)
        self._delete([row["last"] for row in rows])
        if kept:
            window = merge(each.window for each in kept)
            self._table("rows").insert(
                {
                    "last": rows[-1]["last"],
                    "first": rows[0]["first"],
                    "kind": "window",
                    "grade": grade,
                    "span_ms": window.span_ms,
                    "payload": _pack(_Kept(window, kept[-1].totals)),
                }
            )

    def _lose(self, numbers: Sequence[int], kind: str) -> None:
        self._delete(numbers)
        name = f"lost_{kind}s"
        self._put(self._db, **{name: int(self._fact(name, 0)) + len(numbers)})

    def _lost(self) -> Lost:
        return Lost(int(self._fact("lost_windows", 0)), int(self._fact("lost_events", 0)))

    def _delete(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._table("rows").delete_where("last = ?", [number])

    def _table(self, name: str) -> Table:
        return Table(self._db, name)

    def _windows(self, where: str, values: Sequence[int], limit: int = coarsening.MOST) -> list[Row]:
        query = f"SELECT last, grade, span_ms, sent FROM rows WHERE kind = 'window' AND {where} ORDER BY last LIMIT ?"  # noqa: S608 - ours
        found = self._db.execute(query, (*values, limit)).fetchall()
        return [Row(last, grade, span_ms, bool(sent)) for last, grade, span_ms, sent in found]

    def _rows(self, where: str, values: Sequence[Any], limit: int | None = None) -> Iterator[dict[str, Any]]:
        return iter(list(self._table("rows").rows_where(where, list(values), order_by="last", limit=limit)))

    def used_bytes(self) -> int:
        """What it takes of its file, without what was freed."""
        pages = (
            self._db.execute("PRAGMA page_count").fetchone()[0]
            - self._db.execute("PRAGMA freelist_count").fetchone()[0]
        )
        return int(pages) * _PAGE_BYTES

    def _fact(self, name: str, default: int | str) -> str:
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(found[0] if found else default)

    @staticmethod
    def _put(db: sqlite_utils.Database, **facts: int | str) -> None:
        for name, value in facts.items():
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, str(value)))


def _pack(record: _Kept | Happening) -> bytes:
    return _COMPRESSOR.compress(msgspec.json.encode(record))


def _unpack(payload: bytes, kind: type[Any]) -> Any:
    """Raises ValueError where it is not what was packed."""
    try:
        return msgspec.json.decode(_DECOMPRESSOR.decompress(payload, max_output_size=_MAX_PAYLOAD_BYTES), type=kind)
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise ValueError(f"a row is not what was written: {error}") from error
