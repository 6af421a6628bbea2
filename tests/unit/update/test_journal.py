"""The journal: what it keeps through damage, full disks, read-only folders and other releases."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from edged import durable
from edged.errors import Code, EdgedError
from edged.update.journal import DATABASE, Journal
from edged.update.machine import Phase, Ref, State
from edged.update.records import Committed, Key, Pin, Quarantined, Transition

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
ONE, TWO = Ref(1, "1" * 64), Ref(2, "2" * 64)
SOAKING = State(model="m", phase=Phase.SOAKING, serving=TWO, previous=ONE, target=TWO, cause="plan", crashes=2)
SETTLED = State(model="m", phase=Phase.COMMITTED, serving=TWO, previous=ONE)
COMMITTED = Committed(model="m", serving=TWO, previous=ONE, floor=2)
FOUND = Quarantined(
    key=Key(digest="3" * 64, variant="cpu", runtime="onnxruntime 1.20"),
    model="m",
    revision=3,
    reason="golden_mismatch",
    text="it differs",
    at=NOW,
)
PIN = Pin(model="m", revision=2, cause="pin", at=NOW)


def transition(text: str = "") -> Transition:
    return Transition(at=NOW, model="m", revision=2, before="shadow", event="passed", after="soaking", text=text)


def fill(disk: Path) -> None:
    """Leaves no room on a small disk."""
    filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(filler, bytes(4096))
    os.close(filler)


def opened(folder: Path, runtime: Path | None = None) -> Journal:
    folder.mkdir(exist_ok=True)
    return Journal(folder, runtime or folder.parent / "runtime")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def filled(folder) -> Path:
    """A folder whose journal has something of each kind."""
    journal = opened(folder)
    journal.record(SETTLED, transition(), [FOUND], COMMITTED)
    journal.pin(PIN)
    journal.keep_fact("roles", b'{"root":"1:ab"}')
    journal.close()
    return folder


def executed(path: Path, statement: str, values: tuple[str, ...] = ()) -> None:
    """Has another connection than the journal's change its database."""
    with sqlite3.connect(path) as database:
        database.execute(statement, values)
    database.close()


def check_filled(journal: Journal) -> None:
    assert journal.committed() == {"m": COMMITTED}
    assert journal.quarantined() == {FOUND.key.name: FOUND}
    assert journal.pins() == {"m": PIN}
    assert (journal.states()["m"].serving, journal.states()["m"].previous) == (TWO, ONE)


def test_what_was_recorded_is_there_when_it_is_opened_again(filled):
    journal = opened(filled)
    check_filled(journal)
    assert journal.states() == {"m": SETTLED}
    assert journal.fact("roles") == b'{"root":"1:ab"}'
    assert [each.text for each in journal.history("m")] == [""]
    assert not journal.problem
    journal.close()


def test_every_connection_waits_for_the_disk(filled):
    journal = opened(filled)
    database = journal._database
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()


def test_a_step_is_whole_or_not_there(filled, monkeypatch):
    journal = opened(filled)

    def fail(_: object) -> bytes:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        put = journal._put
        patch.setattr(journal, "_put", lambda kind, *rest: put(kind, *rest) if kind == "state" else fail(kind))
        with pytest.raises(ZeroDivisionError):
            journal.record(SOAKING, transition(), [FOUND])
    assert journal.states() == {"m": SETTLED}
    assert len(journal.history()) == 1
    journal.close()


def test_history_is_bounded_and_newest_last(folder, monkeypatch):
    monkeypatch.setattr("edged.update.journal._HISTORY_KEPT", 5)
    journal = opened(folder)
    for number in range(12):
        journal.record(SOAKING, transition(str(number)))
    assert [each.text for each in journal.history()] == ["7", "8", "9", "10", "11"]
    assert [each.sequence for each in journal.history(limit=2)] == [11, 12]
    assert journal.history("another") == []
    journal.close()


class TestDamage:
    def damaged(self, filled: Path) -> Journal:
        journal = opened(filled)
        assert "damaged" in journal.problem
        assert list(filled.glob(f"{DATABASE}.damaged.*"))
        return journal

    @pytest.mark.parametrize(
        "content", [b"", b"SQLite format 3\0" + bytes(84), b"\xff" * 5000], ids=["empty", "head", "junk"]
    )
    def test_of_the_whole_file_loses_nothing_that_counts(self, filled, content):
        (filled / DATABASE).write_bytes(content)
        journal = self.damaged(filled)
        check_filled(journal)
        journal.close()

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
    def test_of_a_truncated_file_loses_nothing_that_counts(self, filled, share):
        self.keep_large_fact(filled)
        path = filled / DATABASE
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        journal = self.damaged(filled)
        check_filled(journal)
        assert journal.fact("peaks") is None
        journal.close()

    def keep_large_fact(self, filled: Path) -> None:
        """One whose end lies in pages of its own, at the end of the file."""
        journal = opened(filled)
        journal.keep_fact("peaks", bytes(range(1, 255)) * 200)
        journal.close()

    def test_of_a_fact_is_noticed_before_anybody_reads_it(self, filled):
        self.keep_large_fact(filled)
        executed(filled / DATABASE, "UPDATE documents SET document = zeroblob(length(document)) WHERE kind = 'fact'")
        journal = self.damaged(filled)
        check_filled(journal)
        journal.close()

    def test_is_not_taken_from_a_file_whose_log_has_the_rest(self, filled):
        journal = opened(filled)
        journal.keep_fact("peaks", bytes(range(1, 255)) * 200)
        copy = filled.parent / "copy"
        shutil.copytree(filled, copy)  # as a power cut leaves it: the log not yet written back
        journal.close()
        assert (copy / f"{DATABASE}-wal").stat().st_size
        found = opened(copy)
        assert (found.problem, found.fact("peaks")) == ("", bytes(range(1, 255)) * 200)
        found.close()

    def test_of_a_bit_anywhere_is_noticed_or_changes_nothing(self, filled, tmp_path):
        content = (filled / DATABASE).read_bytes()
        chance = random.Random(7)
        for number in range(60):
            copy = tmp_path / f"copy{number}"
            shutil.copytree(filled, copy)
            flipped = bytearray(content)
            at = chance.randrange(len(flipped))
            flipped[at] ^= 1 << chance.randrange(8)
            (copy / DATABASE).write_bytes(flipped)
            journal = opened(copy)
            check_filled(journal)
            journal.close()

    def test_of_markers_too_loses_what_they_said_and_no_more(self, filled):
        (filled / DATABASE).write_bytes(b"junk" * 1000)
        (marker,) = (filled / "markers/quarantined").iterdir()
        marker.write_bytes(marker.read_bytes()[:-3] + b"xyz")
        journal = self.damaged(filled)
        assert journal.quarantined() == {}
        assert journal.committed() == {"m": COMMITTED}
        journal.close()

    def test_of_a_record_is_noticed_by_its_seal(self, filled):
        with sqlite3.connect(filled / DATABASE) as database:
            document = database.execute("SELECT document FROM documents WHERE kind = 'state'").fetchone()[0]
            changed = document.replace(b'"revision":2', b'"revision":9')
            assert changed != document
            database.execute("UPDATE documents SET document = ? WHERE kind = 'state'", (changed,))
        database.close()
        journal = self.damaged(filled)
        check_filled(journal)
        journal.close()

    @pytest.mark.parametrize("kind", ["state", "committed", "pinned", "quarantined"])
    def test_of_which_nothing_but_a_marker_tells(self, filled, kind):
        executed(filled / DATABASE, "UPDATE documents SET kind = 'another' WHERE kind = ?", (kind,))
        journal = self.damaged(filled)
        check_filled(journal)
        journal.close()

    def test_whose_rows_are_out_of_order(self, filled):
        path = filled / DATABASE
        executed(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        content = path.read_bytes()
        assert content.count(b"pinnedm") == 1, "the row in the middle, at which a search begins"
        path.write_bytes(content.replace(b"pinnedm", b"zinnedm"))
        journal = self.damaged(filled)
        check_filled(journal)
        journal.close()

    @pytest.mark.parametrize(
        ("was", "found"),
        [(b"CREATE TABLE", b"CREATE TAB\xc5E"), (b"documents", b"docum\xc5nts"), (b"documents", b"DocumentX")],
        ids=["no text", "another name and no text", "another name"],
    )
    def test_whose_schema_is_another(self, filled, was, found):
        path = filled / DATABASE
        executed(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        path.write_bytes(path.read_bytes().replace(was, found))
        journal = self.damaged(filled)
        check_filled(journal)
        journal.close()

    def test_whose_texts_are_none(self, filled):
        executed(filled / DATABASE, "UPDATE documents SET name = CAST(x'c5' AS TEXT) WHERE kind = 'pinned'")
        journal = self.damaged(filled)
        check_filled(journal)
        journal.close()

    def test_leaves_a_few_copies_and_not_ever_more(self, filled):
        for _ in range(5):
            (filled / DATABASE).write_bytes(b"junk" * 1000)
            opened(filled).close()
        assert 1 <= len(list(filled.glob(f"{DATABASE}.damaged.*"))) <= 2

    def test_a_new_device_has_none(self, folder):
        journal = opened(folder)
        assert (journal.problem, journal.states()) == ("", {})
        journal.close()


class TestMarkers:
    def test_say_what_the_journal_does_after_a_power_cut_between_the_two(self, filled):
        shutil.rmtree(filled / "markers")
        opened(filled).close()
        (filled / DATABASE).write_bytes(b"")
        journal = opened(filled)
        check_filled(journal)
        journal.close()

    def test_go_with_what_they_stood_for(self, filled):
        journal = opened(filled)
        journal.unpin("m")
        journal.release(FOUND.key.name)
        journal.close()
        (filled / DATABASE).write_bytes(b"")
        journal = opened(filled)
        assert (journal.pins(), journal.quarantined()) == ({}, {})
        journal.close()


class TestOtherReleases:
    def test_a_newer_schema_is_no_damage(self, filled):
        with sqlite3.connect(filled / DATABASE) as database:
            database.execute("PRAGMA user_version = 7")
            database.execute("ALTER TABLE history ADD COLUMN more TEXT DEFAULT 'x'")
            database.execute("CREATE TABLE later (a TEXT)")
            database.execute("INSERT INTO documents VALUES ('later', 'a', x'00', 'no seal of ours')")
        database.close()
        journal = opened(filled)
        check_filled(journal)
        assert not journal.problem
        journal.record(SOAKING, transition())
        assert journal.states() == {"m": SOAKING}
        journal.close()
        with sqlite3.connect(filled / DATABASE) as database:
            assert database.execute("PRAGMA user_version").fetchone() == (7,)
        database.close()

    def put(self, folder: Path, document: bytes) -> None:
        journal = opened(folder)
        with journal._transaction():
            journal._put("state", "m", document)
        journal.close()

    def test_fields_of_later_are_passed_over(self, filled):
        self.put(filled, msgspec.json.encode({**msgspec.to_builtins(SOAKING), "later": [1, 2]}))
        journal = opened(filled)
        assert journal.states() == {"m": SOAKING}
        journal.close()

    def test_a_phase_of_later_leads_back_to_the_revision_before(self, filled):
        self.put(filled, msgspec.json.encode({**msgspec.to_builtins(SOAKING), "phase": "simmering"}))
        journal = opened(filled)
        assert journal.states() == {"m": State(model="m", serving=ONE)}
        journal.close()


class TestAFolderThatCannotBeWritten:
    @pytest.fixture
    def read_only(self, filled, tmp_path) -> Iterator[Path]:
        """The filled folder on a read-only file system, with a log that was not yet written back."""
        journal = opened(filled)
        journal.record(SOAKING, transition("in the log"))
        mounted = tmp_path / "mounted"
        mounted.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(mounted)], check=True)
        try:
            for path in filled.iterdir():  # as it is while somebody has it open: nothing is written back
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, mounted / path.name)
            assert (mounted / f"{DATABASE}-wal").stat().st_size > 0
            journal.close()
            subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
            yield mounted
        finally:
            subprocess.run(["umount", str(mounted)], check=True)

    def test_is_read_with_its_log(self, read_only, tmp_path):
        journal = Journal(read_only, tmp_path / "run")
        assert journal.stands_in
        assert "read-only" in journal.problem
        assert "updates wait" in journal.problem
        assert journal.states() == {"m": SOAKING}
        journal.record(SETTLED, transition())
        journal.pin(PIN)
        journal.close()

    def test_is_read_anew_at_the_next_start(self, read_only, tmp_path):
        journal = Journal(read_only, tmp_path / "run")
        journal.record(SETTLED, transition())
        journal.close()
        journal = Journal(read_only, tmp_path / "run")
        assert journal.states() == {"m": SOAKING}
        journal.close()


class TestAFullDisk:
    @pytest.fixture
    def full(self, tmp_path) -> Iterator[Path]:
        mounted = tmp_path / "small"
        mounted.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mounted)], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", str(mounted)], check=True)

    def test_is_told_and_what_was_kept_stays(self, full, tmp_path):
        journal = Journal(full, tmp_path / "run")
        journal.record(SETTLED, transition(), [], COMMITTED)
        fill(full)
        with pytest.raises(EdgedError) as raised:
            journal.record(SOAKING, transition("x" * 500_000))
        assert raised.value.code is Code.JOURNAL_UNWRITABLE
        states = journal.states()
        journal.close()
        journal = Journal(full, tmp_path / "run")
        assert journal.states() == states
        journal.close()

    def test_is_served_from(self, full, tmp_path):
        journal = Journal(full, tmp_path / "run")
        journal.record(SETTLED, transition(), [], COMMITTED)
        journal.close()
        fill(full)
        journal = Journal(full, tmp_path / "run")
        assert (journal.states(), journal.stands_in) == ({"m": SETTLED}, True)
        journal.close()


class TestMarkersOnAFailingDisk:
    @pytest.fixture
    def failing(self, monkeypatch) -> Iterator[pytest.MonkeyPatch]:
        """Nothing is written or removed beside the database."""

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(durable, "write", fail)
            patch.setattr(Path, "unlink", fail)
            yield patch

    def rebuilt(self, folder: Path) -> Journal:
        """What the markers alone know."""
        (folder / DATABASE).write_bytes(b"")
        return opened(folder)

    def test_what_is_committed_stands_and_is_marked_with_the_next_change(self, folder, failing):
        journal = opened(folder)
        journal.record(SETTLED, transition(), [FOUND], COMMITTED)
        journal.pin(PIN)
        assert (len(journal.history()), journal.pins()) == (1, {"m": PIN})
        failing.undo()
        journal.record(SETTLED, transition())
        journal.close()
        journal = self.rebuilt(folder)
        check_filled(journal)
        journal.close()

    def test_what_is_to_be_taken_back_stays_where_its_marker_does(self, filled, failing):
        journal = opened(filled)
        with pytest.raises(EdgedError, match="Input/output error"):
            journal.unpin("m")
        assert journal.pins() == {"m": PIN}
        failing.undo()
        journal.unpin("m")
        journal.close()
        journal = self.rebuilt(filled)
        assert journal.pins() == {}
        journal.close()

    def test_what_could_not_be_taken_back_is_marked_again(self, filled, monkeypatch):
        journal = opened(filled)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "_transaction", Unwritable)
            with pytest.raises(EdgedError):
                journal.unpin("m")
        journal.record(SETTLED, transition())
        journal.close()
        journal = self.rebuilt(filled)
        check_filled(journal)
        journal.close()

    def test_a_power_cut_between_the_two_leaves_no_damage(self, filled, monkeypatch):
        journal = opened(filled)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "_transaction", Unwritable)
            with pytest.raises(EdgedError):
                journal.unpin("m")
        journal.close()
        journal = opened(filled)
        assert journal.problem == ""
        check_filled(journal)
        journal.close()


class Unwritable:
    """A transaction that the disk refuses."""

    def __enter__(self) -> None:
        raise EdgedError(Code.JOURNAL_UNWRITABLE, "so the test wants it")

    def __exit__(self, *_: object) -> None:
        """Never reached."""


class TestWhatIsReadWhileItIsOpen:
    @pytest.mark.parametrize(
        "spoiling", ["UPDATE documents SET document = zeroblob(9)", "ALTER TABLE documents RENAME TO elsewhere"]
    )
    @pytest.mark.parametrize(
        "read",
        [Journal.states, Journal.committed, Journal.pins, Journal.quarantined, lambda journal: journal.fact("roles")],
        ids=["states", "committed", "pins", "quarantined", "fact"],
    )
    def test_is_refused_with_a_reason_where_it_is_spoilt(self, filled, read, spoiling):
        journal = opened(filled)
        executed(filled / DATABASE, spoiling)
        with pytest.raises(EdgedError) as raised:
            read(journal)
        assert raised.value.code is Code.JOURNAL_UNWRITABLE
        journal.close()

    def test_of_the_history_too(self, filled):
        journal = opened(filled)
        executed(filled / DATABASE, "DROP TABLE history")
        with pytest.raises(EdgedError, match="cannot be read"):
            journal.history()
        journal.close()
