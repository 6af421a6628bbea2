"""The journal: one SQLite database that says where each model's update stands. One transaction per change.

It is used from one thread at a time, never from the loop's: a commit waits for the disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edged import log
from edged.errors import Code, EdgedError
from edged.update import journal_file, records
from edged.update.machine import State
from edged.update.markers import Markers, encode
from edged.update.records import Committed, DamagedError, Pin, Quarantined, Transition

_log = log.get("update")

DATABASE = "journal.db"

# Schema 1. A release may add kinds of documents, fields, tables, columns with defaults, and raise the number; it never
# changes what is there, so that the release before can open what this one wrote (https://sqlite.org/pragma.html).
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, document BLOB NOT NULL, seal TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (sequence INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, row BLOB NOT NULL);
"""

# What stands in marker files too.
_MARKED = ("committed", "quarantined", "pinned")

_HISTORY_KEPT = 2000
_BUSY_S = 5.0

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

_Record = TypeVar("_Record", bound=msgspec.Struct)


class Journal:
    """What survives. Every change raises EdgedError (journal_unwritable) when it could not be made to survive."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        """Opens the journal in the state folder; where nothing can be written there, a copy in `runtime`.

        A damaged one is set aside and made anew from the markers; `problem` then says so. Raises EdgedError.
        """
        self.problem = ""
        self.stands_in = False
        """Whether it is one for this start alone: what it is told is forgotten at the next one."""
        self._unmarked: set[str] = set()
        """The kinds of which a marker could not be written."""
        self._markers = Markers(folder / "markers")
        self._folder = folder
        path = folder / DATABASE
        try:
            self._database = self._open(path, runtime)
        except (sqlite3.Error, OSError) as error:
            raise _unwritable(path, error) from error

    def _open(self, path: Path, runtime: Path) -> sqlite3.Connection:
        if not journal_file.is_writable(path.parent):
            return self._open_copy(path, runtime, "it is read-only")
        try:
            return self._checked_or_rebuilt(path)
        except (sqlite3.Error, OSError) as error:  # a full disk, a failing one: what it holds can be read perhaps
            return self._open_copy(path, runtime, str(error))

    def _open_copy(self, path: Path, runtime: Path, why: str) -> sqlite3.Connection:
        self.stand_in(f"the journal in {path.parent} cannot be written: {why}")
        return self._checked_or_rebuilt(journal_file.copy(path, runtime))

    def stand_in(self, why: str) -> None:
        """It is to be used in place of the one that survives, for this start alone."""
        self.stands_in = True
        self.problem = f"{why}; updates wait for a start at which it can be"

    def _checked_or_rebuilt(self, path: Path) -> sqlite3.Connection:
        try:
            return self._checked(path)
        except (DamagedError, sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the last: a schema that is no text
            if isinstance(error, sqlite3.DatabaseError) and not _is_damage(error):
                raise
            journal_file.set_aside(path)
            self.problem = f"the journal was damaged ({error}); it is set aside, and made anew from its markers"
        self._database = _connect(path)
        self._rebuild()
        return self._database

    def _checked(self, path: Path) -> sqlite3.Connection:
        """The database, after a look at all that counts. Raises DamagedError or sqlite3.Error."""
        existed = path.exists()
        if existed and journal_file.is_cut(path):
            raise DamagedError("it is shorter than it says")
        database = _connect(path)
        try:
            ((verdict,),) = database.execute("PRAGMA quick_check(1)").fetchall()
            if verdict != "ok":
                raise DamagedError(str(verdict))
            ((version,),) = database.execute("PRAGMA user_version").fetchall()
            if not version:
                if existed and any(True for kind in _MARKED for _ in self._markers.read(kind)):
                    raise DamagedError("it is empty, and its markers are not")
                _make(database)
            self._database = database
            self._check_rows()
            self._unmarked.update(_MARKED)
            self._mark_all()
        except BaseException:
            database.close()
            raise
        return database

    def _check_rows(self) -> None:
        """Raises DamagedError where a document is not as it was written, or not found, which SQLite does not tell."""
        counts = (
            "SELECT count(*) FILTER (WHERE +kind = ?1), (SELECT count(*) FROM documents WHERE kind = ?1) FROM documents"
        )
        for kind in ("state", "fact", *_MARKED):
            ((there, found),) = self._database.execute(counts, (kind,)).fetchall()
            if there != found or len(dict(self._documents(kind))) != found:
                raise DamagedError(f"of {there} documents of the kind {kind}, {found} are found")
        known = {kind: {name for name, _ in self._documents(kind)} for kind in _MARKED}
        known["committed"] &= self._states().keys()
        for kind in _MARKED:
            for name, _ in self._markers.read(kind):
                if name not in known[kind]:
                    raise DamagedError(f"it knows nothing of {name!r}, which a marker says was {kind}")

    def _rebuild(self) -> None:
        """A new database that knows what the markers know."""
        _make(self._database)
        with self._transaction():
            for kind in _MARKED:
                for name, document in self._markers.read(kind):
                    with contextlib.suppress(DamagedError):
                        if kind == "committed":
                            found = records.read(document, Committed)
                            state = State(model=name, serving=found.serving, previous=found.previous)
                            self._put("state", name, encode(state))
                        self._put(kind, name, document)

    def close(self) -> None:
        """Ends it."""
        self._database.close()

    def states(self) -> dict[str, State]:
        """Each model's state. Raises EdgedError."""
        with self._reading():
            return self._states()

    def _states(self) -> dict[str, State]:
        return {name: records.read_state(document) for name, document in self._documents("state")}

    def record(
        self,
        state: State,
        transition: Transition,
        quarantined: Sequence[Quarantined] = (),
        committed: Committed | None = None,
    ) -> None:
        """Makes one step of a machine survive: its new state, its row of the history, what follows from it."""
        marked = [("quarantined", each.key.name, encode(each)) for each in quarantined]
        if committed is not None:
            marked.append(("committed", committed.model, encode(committed)))
        with self._transaction():
            self._put("state", state.model, encode(state))
            for kind, name, document in marked:
                self._put(kind, name, document)
            self._database.execute(
                "INSERT INTO history (model, row) VALUES (?, ?)", (transition.model, encode(transition))
            )
            self._database.execute(
                "DELETE FROM history WHERE sequence <= (SELECT max(sequence) FROM history) - ?", (_HISTORY_KEPT,)
            )
        self._mark(*marked)

    def history(self, model: str = "", limit: int = 100) -> list[Transition]:
        """The newest transitions, of one model or all, oldest first. Raises EdgedError."""
        newest = "SELECT sequence, row FROM history WHERE ? IN ('', model) ORDER BY sequence DESC LIMIT ?"
        with self._reading():
            rows = self._database.execute(newest, (model, limit)).fetchall()
        found = []
        for sequence, row in reversed(rows):
            with contextlib.suppress(DamagedError):  # it is told, nothing is decided by it
                found.append(msgspec.structs.replace(records.read(row, Transition), sequence=sequence))
        return found

    def committed(self) -> dict[str, Committed]:
        """What each model last committed. Raises EdgedError."""
        return self._read_all("committed", Committed)

    def pins(self) -> dict[str, Pin]:
        """The local overrides, by model. Raises EdgedError."""
        return self._read_all("pinned", Pin)

    def pin(self, pin: Pin) -> None:
        """Overrides the plan for a model."""
        with self._transaction():
            self._put("pinned", pin.model, encode(pin))
        self._mark(("pinned", pin.model, encode(pin)))

    def unpin(self, model: str) -> None:
        """Lets the plan decide again."""
        self._remove("pinned", model)

    def quarantined(self) -> dict[str, Quarantined]:
        """What is not tried again, by the name of its key. Raises EdgedError."""
        return self._read_all("quarantined", Quarantined)

    def release(self, name: str) -> None:
        """Lets a key be tried again."""
        self._remove("quarantined", name)

    def fact(self, name: str) -> bytes | None:
        """A small document that some part keeps here, as JSON: accepted role versions, today's downloads.

        Raises EdgedError.
        """
        with self._reading():
            return dict(self._documents("fact")).get(name)

    def keep_fact(self, name: str, document: bytes) -> None:
        """Keeps such a document."""
        with self._transaction():
            self._put("fact", name, document)

    def _read_all(self, kind: str, record: type[_Record]) -> dict[str, _Record]:
        with self._reading():
            documents = dict(self._documents(kind))
        found = {}
        for name, document in documents.items():
            with contextlib.suppress(DamagedError):  # what a later release wrote otherwise
                found[name] = records.read(document, record)
        return found

    def _documents(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Raises DamagedError where one is not as it was written."""
        rows = self._database.execute("SELECT name, document, seal FROM documents WHERE kind = ?", (kind,)).fetchall()
        for name, document, seal in rows:
            if not isinstance(document, bytes) or records.seal(kind, str(name), document) != seal:
                raise DamagedError(f"the {kind} of {name!r} is not what was written")
            yield name, document

    def _put(self, kind: str, name: str, document: bytes) -> None:
        self._database.execute(
            "INSERT INTO documents (kind, name, document, seal) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (kind, name) DO UPDATE SET document = excluded.document, seal = excluded.seal",
            (kind, name, document, records.seal(kind, name, document)),
        )

    def _remove(self, kind: str, name: str) -> None:
        """The marker first: one without its row would be damage, and is never left."""
        if not self.stands_in:
            try:
                self._markers.remove(kind, name)
            except OSError as error:
                raise _unwritable(self._folder, error) from error
        try:
            with self._transaction():
                self._database.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name))
        except EdgedError:
            self._unmarked.add(kind)
            raise

    def _mark(self, *marked: tuple[str, str, bytes]) -> None:
        """Writes markers of what has been committed, which stands whatever becomes of them.

        What cannot be written now is with the next change, or at the next start.
        """
        if self._unmarked:
            self._unmarked.update(kind for kind, _, _ in marked)
            self._mark_all()
            return
        for kind, name, document in marked:
            try:
                if not self.stands_in:
                    self._markers.put(kind, name, document)
            except OSError as error:
                _log.warning("a marker cannot be written", kind=kind, name=name, error=str(error))
                self._unmarked.add(kind)

    def _mark_all(self) -> None:
        """Makes the markers of the kinds that lack one say what the rows do."""
        for kind in sorted(self._unmarked):
            with contextlib.suppress(OSError, sqlite3.Error, DamagedError):
                if not self.stands_in:
                    self._markers.put_all(kind, dict(self._documents(kind)))
                self._unmarked.discard(kind)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, DamagedError) as error:
            raise EdgedError(
                Code.JOURNAL_UNWRITABLE,
                f"{self._folder / DATABASE}: what was decided cannot be read: {error}",
                "check that its disk is healthy, then restart edged, which looks it over; updates wait until then",
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _unwritable(self._folder / DATABASE, error) from error


def _connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits survive a power cut. Raises sqlite3.Error."""
    database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def _make(database: sqlite3.Connection) -> None:
    database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """What is asked at the start is known to be right, so what is wrong with it is the file.

    Python gives no code where a text is none.
    """
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGED


def _unwritable(path: Path, error: Any) -> EdgedError:
    return EdgedError(
        Code.JOURNAL_UNWRITABLE,
        f"{path}: what was decided cannot be kept: {error}",
        "make room on its disk, and check that it is writable and healthy; updates wait until then",
    )
