"""Windows and events on disk until somebody has them: one SQLite file with a cap. Not for the loop: all of it blocks.

A window is one transaction, made durable before its number can be seen by anybody: a power cut never gives one number
to two windows. Rows are ordered by (epoch, number); the epoch changes only when a spool is made anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from sqlite_utils.db import Table

from edged.telemetry import coarsening, spool_file
from edged.telemetry.coarsening import Row
from edged.telemetry.messages import Event, Happening, Lost, Telemetry
from edged.telemetry.orders import Orders
from edged.telemetry.spool_facts import Facts
from edged.telemetry.window import Totals, Window, merge

LEAST_CAP_BYTES = 2 * spool_file.MARGIN_BYTES

# Events may fill this share of the room for rows; outcomes and decisions go last.
_EVENT_SHARE = 4

MOST_TAKEN = 64
"""Rows handed out at a time."""

# An hour of windows whose ends came a little early.
_NEARLY_AN_HOUR_MS = coarsening.HOUR_MS - 30_000

_COMPRESSOR = zstandard.ZstdCompressor(level=9, write_checksum=True)
_DECOMPRESSOR = zstandard.ZstdDecompressor()
_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024

_NOTHING = Lost()


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


class Spool:
    """One open spool, to be used by one thread."""

    def __init__(self, folder: Path | None, cap_bytes: int, now_ms: int, written_ms: int = 0) -> None:
        """Opens or makes it; None: in memory. `now_ms` is trusted time; `written_ms`: when a spool was written last.

        Raises as `spool_file.opened` does.
        """
        self._cap_bytes = max(cap_bytes, LEAST_CAP_BYTES)
        self._opened_ms = now_ms
        # A clock that is behind just now has not forgotten a nonce that was kept before.
        self._db = spool_file.opened(folder, self._cap_bytes, max(now_ms, written_ms))
        self.orders = Orders(self._db)
        """Commands that were accepted."""
        self._facts = Facts(self._db)
        self.epoch = self._facts.number("epoch")
        self._totals = self._facts.totals()
        self._made_ms = self._facts.number("made_ms")

    def close(self) -> None:
        """Closes the file."""
        self._db.conn.close()

    def append_window(self, window: Window, lost: Lost = _NOTHING) -> int:
        """Keeps a window and gives its number; `lost`: before it came here.

        Raises sqlite3.Error, and keeps nothing then.
        """
        totals = self._totals.with_window(window)
        with self._db.atomic():
            self._make_room()
            number = self._insert("window", _pack(_Kept(window, totals)), span_ms=window.span_ms)
            self._facts.put(totals=msgspec.json.encode(totals).decode())
            self._facts.lose("window", lost.windows)
            self._facts.lose("event", lost.events)
        self._totals = totals
        return number

    def append_event(self, event: Happening, *, kept: bool) -> int:
        """Keeps an event and gives its number; `kept`: an outcome or a decision. Raises sqlite3.Error."""
        with self._db.atomic():
            self._make_room()
            return self._insert("event", _pack(event), kept=int(kept))

    def _insert(self, kind: str, payload: bytes, **others: int) -> int:
        number = self._facts.number("next")
        self._table("rows").insert({"last": number, "first": number, "kind": kind, "payload": payload, **others})
        self._facts.put(next=number + 1)
        return number

    def take(self, limit: int, *, coarse: bool, all_now: bool = False) -> list[Outgoing]:
        """The next rows to send: events first, then windows, each oldest first; at most `limit`. They never change now.

        `coarse`: windows go out by the hour, and one that is not full yet only with `all_now`. Raises sqlite3.Error.
        """
        found: list[Outgoing] = []
        limit = min(limit, MOST_TAKEN)  # the log of one transaction lies beside the rows
        if coarse:
            self._join_parts()
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

    def _join_parts(self) -> None:
        """Makes fewer of windows that are so short that an hour has more of them than are merged at a time."""
        after = 0
        while len(rows := self._windows("last > ?", (after,))) == coarsening.MOST:
            run = coarsening.run_to_merge(rows, 0)
            if run and coarsening.grade_of(run, 0) == 0:
                with self._db.atomic():  # each for itself, or the log would grow beyond its room
                    self._merge(run, 0)
            elif run:
                after = run[-1].last
            else:
                after = next((row.last for row in rows if not (row.grade or row.sent)), rows[-1].last)

    def _next(self, kind: str, after: int, *, coarse: bool, all_now: bool) -> dict[str, Any] | None:
        """The first row after number `after`; a window of grade 0 becomes one of an hour first where that is wanted."""
        row = next(iter(self._rows("kind = ? AND last > ?", (kind, after), limit=1)), None)
        if row is None or kind == "event" or row["sent"] or row["grade"] or not coarse:
            return row
        run = coarsening.run_to_merge(self._windows("last > ?", (after,)), 0)
        following = self._db.execute("SELECT COUNT(*) FROM rows WHERE kind = 'window' AND last > ?", (after,))
        covered_ms = sum(each.span_ms for each in run) or int(row["span_ms"])
        whole = covered_ms >= _NEARLY_AN_HOUR_MS or following.fetchone()[0] > max(len(run), 1)
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
        return msgspec.json.encode(Telemetry(**numbers, window=window, totals=kept.totals, lost=self._facts.lost()))

    def acknowledge(self, numbers: Sequence[int]) -> None:
        """Somebody has these rows. Raises sqlite3.Error."""
        with self._db.atomic():
            self._delete(numbers)

    def remembers_since_ms(self, now_ms: int, *, clock_synchronized: bool) -> int:
        """Since when it remembers nonces, wall time in ms since 1970: since it was made, by the clock of then.

        Where that is still to come and the clock has gone on since it was opened, one of the two was wrong; then it is
        what the clock said when it was opened, or nobody could command before that time comes. Where the clock is held
        to be right, it stays so: a clock that was behind at a start must not make valid again what came before.
        """
        if not self._opened_ms <= now_ms < self._made_ms:
            return self._made_ms
        if clock_synchronized:
            self._facts.put(made_ms=self._opened_ms)
            self._made_ms = self._opened_ms
        return self._opened_ms

    def give_up(self, rows: Sequence[Outgoing]) -> None:
        """Nobody can have these rows: they go, and are counted in `lost`. Raises sqlite3.Error."""
        with self._db.atomic():
            for row in rows:
                self._lose([row.last], row.kind)

    def standing(self) -> Standing:
        """How it is."""
        counted = dict(self._db.execute("SELECT kind, COUNT(*) FROM rows GROUP BY kind").fetchall())
        return Standing(
            epoch=self.epoch,
            sequence=self._facts.number("next") - 1,
            windows=counted.get("window", 0),
            events=counted.get("event", 0),
            handed_out=self._table("rows").count_where("sent = 1"),
            used_bytes=self.used_bytes(),
            cap_bytes=self._cap_bytes,
            lost=self._facts.lost(),
        )

    def _make_room(self) -> None:
        """Merges the oldest neighbours until the next row fits; drops only what can neither be merged nor kept."""
        room = self._cap_bytes - spool_file.MARGIN_BYTES
        events_query = "SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM rows WHERE kind = 'event'"
        while self._db.execute(events_query).fetchone()[0] > room // _EVENT_SHARE:
            oldest = "SELECT last FROM rows WHERE kind = 'event' ORDER BY kept, last LIMIT 1"
            self._lose([self._db.execute(oldest).fetchone()[0]], "event")
        while self.used_bytes() > room:
            windows = self._windows("1", (), limit=-1)
            for grade in range(len(coarsening.SPANS_MS)):
                if run := coarsening.run_to_merge(windows, grade):
                    self._merge(run, coarsening.grade_of(run, grade))
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
                    self._merge(run, coarsening.grade_of(run, grade))

    def _merge(self, run: Sequence[Row], grade: int) -> None:
        rows = list(self._rows("kind = 'window' AND last BETWEEN ? AND ?", (run[0].last, run[-1].last)))
        kept = []
        for row in rows:
            try:
                kept.append(_unpack(row["payload"], _Kept))
            except ValueError:
                self._facts.lose("window", 1)
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
        self._facts.lose(kind, len(numbers))

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
        return int(pages) * spool_file.PAGE_BYTES


def _pack(record: _Kept | Happening) -> bytes:
    return _COMPRESSOR.compress(msgspec.json.encode(record))


def _unpack(payload: bytes, kind: type[Any]) -> Any:
    """Raises ValueError where it is not what was packed."""
    try:
        size = zstandard.frame_content_size(payload)  # room is made for so many, whatever the limit says
        if size > _MAX_PAYLOAD_BYTES:
            raise ValueError(f"a row is not what was written: it says that it holds {size} bytes")
        return msgspec.json.decode(_DECOMPRESSOR.decompress(payload, max_output_size=_MAX_PAYLOAD_BYTES), type=kind)
    except (zstandard.ZstdError, msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"a row is not what was written: {error}") from error
