"""The file of a spool: made, opened and looked through, set aside. Not for the loop: all of it blocks.

SQLite keeps no checksums: after a flipped bit, its own check is content with a number that is a word, and with a column
of another name. So what is read without a second look later is looked at here, where damage can be set aside.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import sqlite_utils

from edged import durable
from edged.telemetry import orders, spool_facts
from edged.telemetry.spool_facts import Facts

NAME = "spool.db"
_EPOCH = "epoch"
_DAMAGED = "spool.damaged.db"

_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS rows (
        last INTEGER PRIMARY KEY, first INTEGER NOT NULL, kind TEXT NOT NULL, grade INTEGER NOT NULL DEFAULT 0,
        span_ms INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0,
        payload BLOB NOT NULL
    )
    """,
    spool_facts.SCHEMA,
)
_VERSION = 1
_TABLES = ("rows", "facts", "nonces", "orders")

# A row that is not what was written, its payload apart, which has a checksum.
_NO_ROW = """
    typeof(first) <> 'integer' OR first NOT BETWEEN 1 AND last OR kind NOT IN ('window', 'event')
    OR typeof(grade) <> 'integer' OR typeof(span_ms) <> 'integer' OR span_ms < 0
    OR typeof(sent) <> 'integer' OR typeof(kept) <> 'integer' OR typeof(payload) <> 'blob'
"""

# What lies beside the rows: the write-ahead log before it is copied back, and what a transaction needs for a while.
MARGIN_BYTES = 512 * 1024
PAGE_BYTES = 4096
_LOG_PAGES = 32
_WRITE_VERSION = 18

# An error without a code of its own: no such table, one that is there already, a format that is unsupported. And a
# constraint that fails: a number is to be given that a row has.
_DAMAGE = (
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
)


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is not what was written, and not that disk or memory is full.

    Python cannot tell what SQLite says of a schema that is no text any more, and gives no code where a text is none.
    """
    if not isinstance(error, sqlite3.Error):
        return not isinstance(error, OSError | MemoryError)
    if isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode"):
        return True
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _DAMAGE


def opened(folder: Path | None, cap_bytes: int, made_ms: int) -> sqlite_utils.Database:
    """Opens or makes the file, and looks through it: a row that is none is dropped, and counted as lost.

    None: one in memory. Raises whatever SQLite, the disk and damage bring about; `is_damage` tells which it is.
    """
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _look_at_head(folder / NAME)
    where = folder / NAME if folder else ":memory:"
    connection = sqlite3.connect(where, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"max_page_count = {(cap_bytes - MARGIN_BYTES // 2) // PAGE_BYTES}",
            f"wal_autocheckpoint = {_LOG_PAGES}",
            f"journal_size_limit = {_LOG_PAGES * PAGE_BYTES}",
            "cache_size = -256",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise ValueError(verdict)
        db = sqlite_utils.Database(connection)
        with db.atomic():
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                _make(connection, folder, made_ms)
            for statement in orders.SCHEMA:  # also in one that an older release made
                connection.execute(statement)
            _look_through(connection, Facts(db))
        return db
    except BaseException:
        connection.close()
        raise


def _look_at_head(database: Path) -> None:
    """SQLite takes a file whose write version it does not know for one that may only be read.

    https://www.sqlite.org/fileformat2.html#file_format_version_numbers: byte 18 of the file; 1 and 2 are known. Raises
    ValueError.
    """
    with contextlib.suppress(FileNotFoundError), database.open("rb") as file:
        head = file.read(_WRITE_VERSION + 1)
        if head.startswith(b"SQLite") and head[_WRITE_VERSION:] not in (b"\1", b"\2"):
            raise ValueError(f"its write version is {list(head[_WRITE_VERSION:])}")


def _make(connection: sqlite3.Connection, folder: Path | None, made_ms: int) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    facts = Facts(sqlite_utils.Database(connection))
    facts.put(epoch=_next_epoch(folder, made_ms) if folder else 1, next=1, made_ms=made_ms, totals="{}")


def _next_epoch(folder: Path, made_ms: int) -> int:
    """Higher than any before: the marker outlives the database, and the clock stands in where both are gone."""
    marker = folder / _EPOCH
    before = 0
    with contextlib.suppress(OSError, ValueError):
        before = int(marker.read_text()[:20])
    epoch = max(before + 1, made_ms // 1000)
    durable.write(marker, f"{epoch}\n".encode())
    return epoch


def _look_through(connection: sqlite3.Connection, facts: Facts) -> None:
    """Raises ValueError where a table or a fact is not what it must be."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        for statement in (*_SCHEMA, *orders.SCHEMA):
            fresh.execute(statement)
        for table in _TABLES:
            if not _columns(fresh, table) <= _columns(connection, table):
                raise ValueError(f"its table {table} has other columns")
    facts.number("epoch")
    facts.number("made_ms")
    facts.totals()
    facts.lost()
    for kind, chosen in (("event", "kind = 'event'"), ("window", "kind IS NOT 'event'")):
        facts.lose(kind, connection.execute(f"DELETE FROM rows WHERE {chosen} AND ({_NO_ROW})").rowcount)  # noqa: S608 - ours
    (latest,) = connection.execute("SELECT COALESCE(MAX(last), 0) FROM rows").fetchone()
    if facts.number("next") <= latest:
        raise ValueError(f"its next number is {facts.number('next')}, and it holds a row {latest}")


def _columns(connection: sqlite3.Connection, table: str) -> set[tuple[object, ...]]:
    """Name, type and what else there is of each."""
    return {tuple(row[1:]) for row in connection.execute(f"PRAGMA table_info({table})")}


def written_ms(folder: Path) -> int:
    """When a spool was written last, by the clock of then, in ms since 1970; 0 where there was none."""
    found = [0]
    for name in (NAME, f"{NAME}-wal", _DAMAGED):
        with contextlib.suppress(OSError):
            found.append((folder / name).stat().st_mtime_ns // 1_000_000)
    return max(found)


def set_aside(folder: Path, why: str) -> str:
    """Makes room for a new one, and says so, for people. Raises OSError."""
    database = folder / NAME
    for suffix in ("-wal", "-shm"):
        database.with_name(NAME + suffix).unlink(missing_ok=True)
    durable.place(database, folder / _DAMAGED)
    return f"the spool was damaged ({why}) and is set aside as {folder / _DAMAGED}; a new one is made"
