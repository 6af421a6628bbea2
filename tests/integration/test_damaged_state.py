"""State damaged between two starts, or written by another release: a whole revision serves, and it is told why."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.daemon import Daemon
from support.fleet import Fleet
from support.updating import MODEL, Updating, scale_bundle

from edged import clock
from edged._pb.edged.v1 import update_pb2 as up
from edged.update import records

STATE = "var/lib/edged"
DATABASE = f"{STATE}/journal.db"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system: needs root")


class Setting:
    """A device that took revision 2 over the air and lost its power, so that its journal still has a log; a fleet."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder / "fleet")
        self.bundles = folder / "bundles"
        self.fleet.publish(scale_bundle(self.bundles, 2, factor=3.0))
        self.fleet.plan(MODEL, 2)
        self.root = folder / "root"
        first = scale_bundle(folder / "factory", 1, factor=2.0)
        with Daemon(self.root, [first], self.fleet.trusted_by(self.root)) as daemon:
            daemon.start()
            Updating(daemon).wait_idle_at(2)
            daemon.process.kill()
            daemon.wait_end()
        assert (self.root / f"{DATABASE}-wal").stat().st_size > 0


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    return Setting(tmp_path_factory.mktemp("s"))


@pytest.fixture
def device(setting, tmp_path) -> Iterator[Daemon]:
    """A copy of that device, not started, with hard links as in the store."""
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", str(setting.root), str(root)], check=True)
    with Daemon(root) as daemon:
        yield daemon


def degraded(device: Daemon) -> str:
    return "\n".join(device.status().degraded_reasons)


def explained(device: Daemon) -> str:
    return "\n".join(Updating(device).call("Explain", up.ExplainRequest(model=MODEL), up.ExplainResponse).lines)


def again(device: Daemon) -> Updating:
    """Starts it once more; whatever was amiss is mended or known by now."""
    device.stop()
    device.told.clear()
    device.start()
    return Updating(device)


@contextlib.contextmanager
def moved(device: Daemon) -> Iterator[Path]:
    """Its state folder on a small disk of its own, until it has stopped."""
    state, kept = device.root / STATE, device.root / "kept"
    state.rename(kept)
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700,size=16m", "none", str(state)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(state)], check=True)
        yield state
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=True)


def checkpointed(path: Path) -> None:
    """Writes the log back, so that the database alone holds everything."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def keep_large_peaks(path: Path) -> None:
    """So that the end of the file holds what is read at a start."""
    document = json.dumps({f"{number:064x} cpu onnxruntime 1": number for number in range(250)}).encode()
    with sqlite3.connect(path) as database:
        database.execute(
            "INSERT OR REPLACE INTO documents VALUES ('fact', 'peaks', ?, ?)",
            (document, records.seal("fact", "peaks", document)),
        )
    database.close()


class TestAJournal:
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.97])
    def test_that_was_truncated(self, device, share):
        path = device.root / DATABASE
        keep_large_peaks(path)
        checkpointed(path)
        os.truncate(path, int(path.stat().st_size * share))
        device.start()
        assert Updating(device).answers() == ([3.0, 6.0], 2)
        assert "journal was damaged" in degraded(device)
        assert again(device).answers() == ([3.0, 6.0], 2)
        assert not degraded(device)

    @pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.slow)])
    def test_that_has_flipped_bits(self, device, times):
        path, kept = device.root / DATABASE, device.root / "kept"
        checkpointed(path)
        shutil.copyfile(path, kept)
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}")  # noqa: T201
        chance = random.Random(seed)
        for _ in range(times):
            content = bytearray(kept.read_bytes())
            for _ in range(chance.randrange(1, 20)):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
            device.start()
            assert Updating(device).answers() == ([3.0, 6.0], 2), explained(device)
            device.stop()
            device.told.clear()

    @needs_root
    def test_that_cannot_be_written_and_has_a_log(self, device):
        with moved(device) as state:
            subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
            device.start()
            assert Updating(device).answers() == ([3.0, 6.0], 2)
            assert "cannot be written: it is read-only" in degraded(device)
            assert "it served last" in explained(device)
            device.stop()

    @needs_root
    def test_that_a_full_disk_keeps_from_being_written_is_not_gone_on_without(self, setting, device):
        """What was decided without it would be gone at the next start, and what it names would be collected."""
        setting.fleet.publish(scale_bundle(setting.bundles, 5, factor=5.0))
        pin = up.PinRequest(model=MODEL, revision=5)
        with moved(device) as state:
            checkpointed(state / "journal.db")  # which has no log then, and needs room for one
            filler = state / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            device.start()
            updating = Updating(device)
            assert updating.answers() == ([3.0, 6.0], 2)
            assert "cannot be written" in degraded(device)
            filler.unlink()
            with pytest.raises(grpc.RpcError, match="would be forgotten at the next start"):
                updating.call("Pin", pin, up.PinResponse)
            updating = again(device)
            assert updating.answers() == ([3.0, 6.0], 2)
            assert not degraded(device)
            updating.call("Pin", pin, up.PinResponse)
            updating.wait_idle_at(5)
            device.stop()

    def test_of_the_next_release(self, setting, device):
        """It has a higher number, a column and a table more, and records with fields that nobody here knows."""
        with sqlite3.connect(device.root / DATABASE) as database:
            database.execute("PRAGMA user_version = 7")
            database.execute("ALTER TABLE history ADD COLUMN later TEXT DEFAULT 'x'")
            database.execute("CREATE TABLE later (id INTEGER PRIMARY KEY)")
            rewrite(database, "state", lambda state: {**state, "later": {"a": 1}})
            rewrite(database, "committed", lambda state: {**state, "later": True})
        database.close()
        device.start()
        self.goes_on(setting, device, 3)

    def test_of_a_release_before(self, setting, device):
        """Its states lack what has been added since the first: counters, and why something waits."""
        with sqlite3.connect(device.root / DATABASE) as database:
            rewrite(database, "state", lambda state: {name: state[name] for name in ("model", "phase", "serving")})
        database.close()
        device.start()
        self.goes_on(setting, device, 4)

    def goes_on(self, setting: Setting, device: Daemon, revision: int) -> None:
        updating = Updating(device)
        assert updating.answers() == ([3.0, 6.0], 2)
        assert not degraded(device)
        setting.fleet.publish(scale_bundle(setting.bundles, revision, factor=float(revision)))
        updating.call("Pin", up.PinRequest(model=MODEL, revision=revision), up.PinResponse)
        updating.wait_idle_at(revision)
        assert again(device).answers()[1] == revision


def rewrite(database: sqlite3.Connection, kind: str, change) -> None:
    """Changes the records of a kind, sealed as their release seals them."""
    for name, document in database.execute("SELECT name, document FROM documents WHERE kind = ?", (kind,)).fetchall():
        changed = json.dumps(change(json.loads(document))).encode()
        seal = records.seal(kind, name, changed)
        database.execute(
            "UPDATE documents SET document = ?, seal = ? WHERE kind = ? AND name = ?", (changed, seal, kind, name)
        )


class TestABlob:
    def link(self, device: Daemon) -> Path:
        return device.root / STATE / f"store/revisions/{MODEL}/2/model.onnx"

    def blob(self, device: Daemon) -> Path:
        """The one that the revision has as its model."""
        inode = self.link(device).stat().st_ino
        blobs = (device.root / STATE / "store/blobs").glob("*/*")
        return next(path for path in blobs if path.stat().st_ino == inode)

    def mended(self, device: Daemon) -> None:
        updating = Updating(device)
        request = up.GetStoreRequest(verify=True, repair=True)
        updating.call("GetStore", request, up.Store)
        assert not updating.call("GetStore", up.GetStoreRequest(verify=True), up.Store).damages
        assert again(device).answers() == ([3.0, 6.0], 2)

    def test_that_was_deleted_everywhere(self, device):
        self.blob(device).unlink()
        self.link(device).unlink()
        self.comes_again(device)

    def test_that_has_a_flipped_bit(self, device):
        link = self.link(device)
        content = bytearray(link.read_bytes())
        content[len(content) // 2] ^= 1
        link.chmod(0o600)
        link.write_bytes(content)
        self.comes_again(device)

    def comes_again(self, device: Daemon) -> None:
        """The revision before serves until what the plan wants has been fetched once more."""
        device.start()
        assert "revision 2 was passed over" in explained(device)
        updating = Updating(device)
        updating.wait_idle_at(2)
        assert updating.answers() == ([3.0, 6.0], 2)
        device.wait_for(lambda status: not any("instead of 2" in each for each in status.degraded_reasons))
        assert not updating.call("GetStore", up.GetStoreRequest(verify=True), up.Store).damages

    def test_that_was_deleted_and_is_still_used(self, device):
        self.blob(device).unlink()
        device.start()
        assert Updating(device).answers() == ([3.0, 6.0], 2)
        self.mended(device)

    def test_that_was_changed_comes_again_before_its_trial(self, device):
        """It was right when it was taken in: it is hashed again when it is wanted, and as it is loaded."""
        device.start()
        updating = Updating(device)
        updating.call("RollBack", up.RollBackRequest(model=MODEL), up.RollBackResponse)
        updating.wait_idle_at(1)
        link = self.link(device)
        content = bytearray(link.read_bytes())
        content[len(content) // 2] ^= 1
        link.chmod(0o600)
        link.write_bytes(content)
        updating.call("Unpin", up.UnpinRequest(model=MODEL), up.UnpinResponse)
        updating.wait_idle_at(2)
        assert updating.answers() == ([3.0, 6.0], 2)
        assert not updating.call("ListQuarantine", up.ListQuarantineRequest(), up.ListQuarantineResponse).quarantined


@pytest.mark.parametrize("content", [b"", b"{"], ids=["empty", "cut off"])
def test_metadata_that_was_damaged_is_fetched_again(device, content):
    cached = [path for path in (device.root / STATE / "update/metadata").rglob("*") if path.is_file()]
    assert {"timestamp.json", "snapshot.json"} <= {path.name for path in cached}
    for path in cached:
        if not path.is_symlink():
            path.write_bytes(content)
    device.start()
    updating = Updating(device)
    assert updating.answers() == ([3.0, 6.0], 2)
    updating.look()


def test_damaged_metadata_does_not_let_an_older_repository_in(setting, device, tmp_path):
    """The versions that were accepted stand in the journal too."""
    old = tmp_path / "old"
    shutil.copytree(setting.fleet.home.metadata, old)
    setting.fleet.renew(clock.wall())
    device.start()
    Updating(device).look()
    device.stop()
    device.told.clear()
    for path in (device.root / STATE / "update/metadata").rglob("*.json"):
        if not path.is_symlink():
            path.write_bytes(b"")
    current = (setting.fleet.home.metadata / "timestamp.json").read_bytes()
    shutil.copyfile(old / "timestamp.json", setting.fleet.home.metadata / "timestamp.json")
    try:
        device.start()
        updating = Updating(device)
        with pytest.raises(grpc.RpcError, match="old copy"):
            updating.look()
        assert updating.answers() == ([3.0, 6.0], 2)
    finally:
        (setting.fleet.home.metadata / "timestamp.json").write_bytes(current)
