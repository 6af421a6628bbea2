"""A repository that lies, an attacker with some of its keys, a network that does its worst, clocks that are wrong.

The attacks are those of the TUF specification, section 1.5.2, and what a device that stands alone adds to them.
"""

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from support.fleets import DIGITS, Device, copy_fleet, make_fleet, overwrite
from tuf.api.metadata import Metadata, MetaFile, TargetFile

from edged import clock
from edged.bundle.manifest import Chunk, encode
from edged.fleet import planning, rotating
from edged.fleet.listing import Listing
from edged.fleet.signing import meta, packed
from edged.update import chunks
from edged.update.plan import Plan
from edged.update.repository import Floor
from edged.update.transport import PARALLEL

# What a server gets rid of on one connection, although nobody reads it: the kernel's buffers of both ends.
BUFFERED_BYTES = 20 * 2**20

UNTRUSTED = {"signature_invalid", "rollback_attack", "metadata_expired", "download_failed"}


@pytest.fixture
def settled(online):
    """A device that has seen the repository as it is."""
    server, device = online
    assert device.plan().status == 0
    return server, device


def at(monkeypatch, time):
    """Sets the device's clock, and the operator's."""
    monkeypatch.setattr(clock, "wall", lambda: time)


def kept(fleet, tmp_path, name="earlier"):
    """What the repository is now, for later."""
    return copy_fleet(fleet, tmp_path / name)


def go_back(fleet, earlier, *names):
    """Serves the metadata files of an earlier time under their names of now."""
    for name in names:
        overwrite(fleet.home.metadata / name, (earlier.home.metadata / name).read_bytes())


def forge(fleet, role, change, key=""):
    """Changes a role's newest metadata in place and signs it with the key of `key`, whatever that may sign."""
    path = fleet.metadata(role)
    metadata = Metadata.from_bytes(path.read_bytes())
    change(metadata.signed)
    metadata.signatures.clear()
    signing = fleet.signing()
    for signer in signing.ring.of_role(key or role):
        metadata.sign(signer, append=True)
    overwrite(path, packed(metadata))
    return metadata


class TestAttacks:
    def test_arbitrary_installation_of_a_chunk(self, fleet, settled):
        _, device = settled
        for path in fleet.chunks():
            overwrite(path, chunks.pack(b"evil"))
        assert device.fetch(1).code == "download_failed"
        assert not list(device.store.root.rglob("*.onnx"))
        assert not [path for path in (device.store.staging("digits", 1) / "blobs").iterdir() if path.suffix != ".part"]

    def test_arbitrary_installation_of_a_manifest_and_of_a_plan(self, fleet, online):
        _, device = online
        for path in fleet.home.targets.rglob("*.json"):
            raw = path.read_bytes()
            overwrite(path, raw.replace(b"1", b"2"))
        assert device.plan().code == "signature_invalid"
        assert device.fetch(1).code == "signature_invalid"

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "models", "plans"])
    def test_metadata_signed_by_nobody(self, fleet, online, role):
        _, device = online
        forge(fleet, role, lambda _: None, key="nobody")
        assert device.plan().code == "signature_invalid"

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "models", "plans"])
    @pytest.mark.parametrize("key", ["plans", "models", "timestamp"])
    def test_metadata_signed_by_a_key_of_another_role(self, fleet, online, role, key):
        if role == key:
            return
        _, device = online
        forge(fleet, role, lambda _: None, key=key)
        assert device.plan().code == "signature_invalid"

    def test_rollback_of_everything(self, fleet, settled, tmp_path):
        _, device = settled
        earlier = kept(fleet, tmp_path)
        fleet.run_revision(2)
        assert device.plan().status == 0
        go_back(fleet, earlier, "timestamp.json")
        answered = device.plan()
        assert answered.code == "rollback_attack"
        assert "timestamp" in answered.message

    def test_rollback_with_the_cache_lost(self, fleet, settled, tmp_path):
        _, device = settled
        earlier = kept(fleet, tmp_path)
        fleet.run_revision(2)
        roles = device.plan().event("metadata")["roles"]
        go_back(fleet, earlier, "timestamp.json")
        shutil.rmtree(device.metadata)
        assert device.plan().status == 0, "nothing is left that could know better"
        shutil.rmtree(device.metadata)
        device.options = [word for role, floor in roles.items() for word in ("--floor", f"{role}={floor}")]
        assert device.plan().code == "rollback_attack"

    def test_rollback_of_root_with_the_cache_lost(self, fleet, settled):
        _, device = settled
        rotating.rotate(fleet.signing(), "timestamp", "")
        roles = device.plan().event("metadata")["roles"]
        assert roles["root"].startswith("2:")
        shutil.rmtree(device.metadata)
        (fleet.home.metadata / "2.root.json").unlink()
        device.options = ["--floor", f"root={roles['root']}"]
        assert device.plan().code in ("rollback_attack", "signature_invalid")

    def test_fast_forward_is_recovered_from(self, fleet, settled):
        """The timestamp's key was stolen and its version driven to the end; a rotation lets the device come back."""
        _, device = settled
        original = fleet.metadata("timestamp").read_bytes()
        forge(fleet, "timestamp", lambda signed: setattr(signed, "version", 2**53))
        answered = device.plan()
        assert answered.status == 0
        roles = answered.event("metadata")["roles"]
        overwrite(fleet.metadata("timestamp"), original)
        fleet.run_revision(2)
        assert device.plan().code == "rollback_attack"
        rotating.rotate(fleet.signing(), "timestamp", "")
        device.options = [word for role, floor in roles.items() for word in ("--floor", f"{role}={floor}")]
        assert device.plan().status == 0

    def test_freeze_ends_with_the_expiry(self, settled, monkeypatch):
        _, device = settled
        at(monkeypatch, datetime.now(UTC) + timedelta(days=29))
        assert device.plan().status == 0
        at(monkeypatch, datetime.now(UTC) + timedelta(days=31))
        answered = device.plan()
        assert answered.code == "metadata_expired"
        assert "timestamp" in answered.message

    def test_mix_and_match_of_a_snapshot(self, fleet, settled, tmp_path):
        _, device = settled
        earlier = kept(fleet, tmp_path)
        old = earlier.metadata("snapshot").read_bytes()
        fleet.run_revision(2)
        overwrite(fleet.metadata("snapshot"), old)
        assert device.plan().code == "signature_invalid"

    def test_mix_and_match_of_a_role(self, fleet, settled, tmp_path):
        _, device = settled
        earlier = kept(fleet, tmp_path)
        old = earlier.metadata("plans").read_bytes()
        fleet.run_revision(2)
        overwrite(fleet.metadata("plans"), old)
        assert device.plan().code == "signature_invalid"

    def test_wrong_software(self, fleet, settled):
        """Another manifest, signed and whole, where the wanted one should be."""
        _, device = settled
        listing = Listing(fleet.signing())
        at_1, at_2 = (
            fleet.home.targets / f"models/digits/{listing.digest(f'models/digits/{revision}.json')}.{revision}.json"
            for revision in (1, 2)
        )
        overwrite(at_1, at_2.read_bytes()[: at_1.stat().st_size])
        assert device.fetch(1).code == "signature_invalid"
        overwrite(at_1, at_2.read_bytes())
        assert device.fetch(1).code in UNTRUSTED

    @pytest.mark.parametrize("part", ["2.root.json", "timestamp.json", "snapshot.json", "targets/plans"])
    def test_endless_data(self, online, part):
        server, device = online
        server.endless(part)
        assert device.plan().code in UNTRUSTED
        assert server.body_bytes < BUFFERED_BYTES

    def test_endless_chunks(self, online):
        server, device = online
        server.endless("/chunks")
        assert device.fetch(1).code == "download_failed"
        assert server.body_bytes < PARALLEL * BUFFERED_BYTES

    @pytest.mark.parametrize("part", ["timestamp.json", "snapshot.json"])
    def test_slow_retrieval(self, online, part):
        server, device = online
        server.trickle(part, 0.01)
        assert device.plan().code == "download_failed"

    def test_a_slow_line_is_none(self, online, monkeypatch):
        server, device = online
        server.trickle("/chunks", 0.02, 256)
        monkeypatch.setattr("edged.update.fetch._STALL_S", 0.2)
        assert device.fetch(1).status == 0

    def test_slow_retrieval_of_headers(self, online, monkeypatch):
        server, device = online

        def fault(request, _):
            request.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not server._over.wait(0.05):
                request.wfile.write(b"X-A: b\r\n" if server._over.wait(0.05) else b"X")

        server.answer("timestamp.json", fault)
        monkeypatch.setattr("edged.update.fetch._STALL_S", 1)
        assert device.plan().code == "download_failed"


class TestStolenKeys:
    """Who has the key of one role, and the repository's files, and nothing else."""

    def evil(self, fleet):
        """A manifest as the thief would have it."""
        manifest = Listing(fleet.signing()).manifest("digits", 1)
        return msgspec.structs.replace(manifest, description="evil")

    def put_target(self, fleet, role, key, path, content):
        digest = hashlib.sha256(content).hexdigest()

        def change(signed):
            signed.targets[path] = TargetFile(len(content), {"sha256": digest}, path)

        metadata = forge(fleet, role, change, key)
        folder, _, name = path.rpartition("/")
        overwrite(fleet.home.targets / folder / f"{digest}.{name}", content)
        return metadata

    def test_of_models(self, fleet, settled):
        _, device = settled
        role = Listing(fleet.signing()).role_of("models/digits/1.json")
        self.put_target(fleet, role, "models", "models/digits/1.json", encode(self.evil(fleet)))
        shutil.rmtree(device.metadata)
        assert device.fetch(1).code == "signature_invalid"

    def test_of_plans(self, fleet, settled):
        _, device = settled
        plan = msgspec.json.encode(Plan(fleet="shops"))
        self.put_target(fleet, "plans", "plans", "plans/shops.json", plan)
        shutil.rmtree(device.metadata)
        assert device.plan().code == "signature_invalid"

    def test_of_targets(self, fleet, settled):
        _, device = settled
        self.put_target(fleet, "targets", "targets", "operators.json", b'{"fleet":"shops"}')
        shutil.rmtree(device.metadata)
        assert device.plan().code in UNTRUSTED

    @pytest.mark.parametrize("role", ["timestamp", "snapshot"])
    def test_of_one_online_role(self, fleet, settled, role):
        _, device = settled
        if role == "timestamp":
            evil = MetaFile(99, 10, {"sha256": "0" * 64})
            forge(fleet, role, lambda signed: setattr(signed, "snapshot_meta", evil))
        else:
            forge(fleet, role, lambda signed: signed.meta.pop("plans.json"))
        shutil.rmtree(device.metadata)
        assert device.plan().code in UNTRUSTED

    def test_of_both_online_roles_takes_nothing_back_and_signs_nothing_new(self, fleet, settled, tmp_path):
        _, device = settled
        earlier = kept(fleet, tmp_path)
        fleet.run_revision(2)
        assert device.plan().status == 0
        signing = fleet.signing()
        old = Metadata.from_bytes(earlier.metadata("plans").read_bytes())

        def change(signed):
            signed.meta["plans.json"] = meta(old.signed.version, earlier.metadata("plans").read_bytes())

        root = signing.root()
        snapshot = signing.load("snapshot")
        change(snapshot.signed)
        signing.go_above(snapshot.signed.version, signing.version("timestamp"))
        forged = forge(fleet, "snapshot", change)
        of_snapshot = meta(forged.signed.version, packed(forged))
        version = signing.version("timestamp") + 1
        stamped = signing.timestamp(version, of_snapshot, root, signing.expires("timestamp"))
        overwrite(fleet.metadata("timestamp"), packed(stamped))
        assert device.plan().code == "rollback_attack"

    def test_of_plans_and_online_roles_cannot_go_below_the_floor(self, fleet, settled):
        _, device = settled
        signing = fleet.signing()
        listing = Listing(signing)
        listing.put("models/digits/floor.json", msgspec.json.encode(Floor("digits", 2)))
        signing.commit(listing.changed)
        assert device.plan().event("plan")["floors"] == {"digits": 2}
        assert device.fetch(1).code == "rollback_attack"
        assert device.fetch(2).status == 0

    def test_of_one_root_of_two(self, tmp_path):

        fleet = make_fleet(tmp_path / "two", {"root": (2, 3)})
        device = Device(tmp_path / "device", fleet.root, fleet.url)
        assert device.plan().status == 0
        root = Metadata.from_bytes(fleet.metadata("root").read_bytes())
        root.signed.version = 2
        root.signatures.clear()
        signing = fleet.signing()
        signers = signing.ring.of_role("root")
        root.sign(signers[0])
        path = fleet.home.metadata / "2.root.json"
        path.write_bytes(packed(root))
        assert device.plan().code == "signature_invalid"
        root.sign(signers[2], append=True)
        overwrite(path, packed(root))
        assert device.plan().status == 0
        assert device.plan().event("metadata")["roles"]["root"].startswith("2:")


class TestManifests:
    """Signed by the right keys, and wrong all the same."""

    def published(self, fleet, raw, revision=3):
        signing = fleet.signing()
        listing = Listing(signing)
        listing.put(f"models/digits/{revision}.json", raw)
        signing.commit(listing.changed)

    def manifest(self, fleet, **changes):
        found = Listing(fleet.signing()).manifest("digits", 1)
        return msgspec.structs.replace(found, revision=3, **changes)

    def with_file(self, fleet, **changes):
        manifest = self.manifest(fleet)
        file = msgspec.structs.replace(manifest.file("model.onnx"), **changes)
        files = tuple(file if each.path == "model.onnx" else each for each in manifest.files)
        return msgspec.structs.replace(manifest, files=files)

    @pytest.mark.parametrize("path", ["../../../evil", "/etc/evil", "a/../../evil", "manifest.json", "\u202eevil"])
    def test_that_point_outside(self, fleet, online, tmp_path, path):
        _, device = online
        self.published(fleet, encode(self.with_file(fleet, path=path)))
        assert device.fetch(3).code == "bundle_invalid"
        assert not list(tmp_path.rglob("evil"))

    def test_that_lie_about_the_size_of_a_file(self, fleet, online):
        _, device = online
        size = self.manifest(fleet).file("model.onnx").size
        self.published(fleet, encode(self.with_file(fleet, size=size + 1)))
        assert device.fetch(3).code == "bundle_invalid"

    def test_that_lie_about_the_size_of_a_chunk(self, fleet, online):
        _, device = online
        file = self.manifest(fleet).file("model.onnx")
        first = msgspec.structs.replace(file.chunks[0], length=file.chunks[0].length - 1)
        last = Chunk(offset=first.length, length=1, sha256="0" * 64)
        self.published(fleet, encode(self.with_file(fleet, chunks=(first, last, *file.chunks[2:]))))
        assert device.fetch(3).status == 1

    def test_whose_chunks_make_another_file(self, fleet, online):
        _, device = online
        self.published(fleet, encode(self.with_file(fleet, sha256="0" * 64)))
        answered = device.fetch(3)
        assert answered.code == "digest_mismatch"
        assert "model.onnx" in answered.message
        assert not list(device.store.staging("digits", 3).glob(f"blobs/{'0' * 64}*"))

    def test_with_a_chunk_too_large_to_read_at_once(self, fleet, online):
        server, device = online
        size = 2**40
        chunk = Chunk(offset=0, length=size, sha256="0" * 64)
        self.published(fleet, encode(self.with_file(fleet, size=size, chunks=(chunk,))))
        assert device.fetch(3).code == "bundle_invalid"
        assert not [path for path in server.paths if path.startswith("/chunks")]

    def test_without_chunks(self, fleet, online):
        _, device = online
        self.published(fleet, encode(self.with_file(fleet, chunks=())))
        assert device.fetch(3).code == "bundle_invalid"

    def test_larger_than_any_device_has_room_for(self, fleet, online):
        _, device = online
        length = 4 * 2**20
        many = tuple(Chunk(offset=at * length, length=length, sha256=f"{at:064x}") for at in range(200_000))
        self.published(fleet, encode(self.with_file(fleet, size=length * len(many), chunks=many)))
        assert device.fetch(3, "digits").code in ("storage_full", "bundle_invalid")
        assert not list(device.store.root.rglob("*.part"))

    def test_that_list_a_million_chunks(self, fleet, online):
        _, device = online
        many = b",".join(b'{"length":1,"offset":%d,"sha256":"%064x"}' % (at, at) for at in range(1_000_000))
        raw = encode(self.manifest(fleet)).replace(b'"chunks":[{', b'"chunks":[' + many + b",{", 1)
        self.published(fleet, raw)
        assert device.fetch(3).status == 1
        assert not device.store.staging("digits", 3).exists()

    @pytest.mark.parametrize(
        "raw", [b"", b"[" * 200_000, b'{"a":' * 200_000, b"<html>", b"\xff", b"{}", b'{"files":[]}']
    )
    def test_that_are_none(self, fleet, online, raw):
        _, device = online
        self.published(fleet, raw)
        assert device.fetch(3).code == "bundle_invalid"

    def test_of_another_model(self, fleet, online):
        _, device = online
        self.published(fleet, encode(self.manifest(fleet, name="letters")))
        assert "letters" in device.fetch(3).message

    def test_plans_that_are_none(self, fleet, online):
        _, device = online
        signing = fleet.signing()
        listing = Listing(signing)
        listing.put("plans/shops.json", b"[" * 100_000)
        signing.commit(listing.changed)
        assert device.plan().code == "plan_invalid"

    def test_floors_that_are_none(self, fleet, online):
        _, device = online
        signing = fleet.signing()
        listing = Listing(signing)
        listing.put("models/digits/floor.json", b'{"model":"letters","min_revision":1}')
        signing.commit(listing.changed)
        assert device.plan().code == "repository_invalid"


class TestChunks:
    CONTENT = b"chunk " * 1000

    def digest(self):
        return hashlib.sha256(self.CONTENT).hexdigest()

    def test_come_back_as_they_were(self):
        raw = chunks.pack(self.CONTENT)
        assert len(raw) < len(self.CONTENT) / 10
        assert chunks.unpack(raw, self.digest(), len(self.CONTENT)) == self.CONTENT

    def test_that_do_not_shrink_cost_little(self):
        content = hashlib.shake_256(b"x").digest(2**19)
        assert len(chunks.pack(content)) <= chunks.packed_bound(len(content))

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"<html>",
            chunks.pack(b"other " * 1000),
            chunks.pack(CONTENT)[:-1],
            chunks.pack(CONTENT) + b"x",
            CONTENT,
        ],
    )
    def test_that_are_others_are_refused(self, raw):
        with pytest.raises(chunks.DamagedChunkError):
            chunks.unpack(raw, self.digest(), len(self.CONTENT))

    def test_that_unpack_to_much_are_not_unpacked(self):
        bomb = chunks.pack(b"\0" * 2**28)
        assert len(bomb) < 2**16
        with pytest.raises(chunks.DamagedChunkError, match=str(2**28)):
            chunks.unpack(bomb, self.digest(), len(self.CONTENT))


class TestTheNetwork:
    @pytest.mark.parametrize("part", ["2.root.json", "timestamp.json", "snapshot.json", "plans.json", "targets/plans"])
    def test_a_web_page_with_status_200(self, online, part):
        server, device = online
        server.give(part, b"<html><body>Please sign in</body></html>")
        assert device.plan().code in ("download_failed", "signature_invalid")
        server.mend()
        assert device.plan().status == 0

    def test_a_web_page_for_a_chunk(self, online):
        server, device = online
        server.give("/chunks", b"<html><body>Please sign in</body></html>")
        assert device.fetch(1).code == "download_failed"
        server.mend()
        device.install(1)

    @pytest.mark.parametrize("part", ["timestamp.json", "snapshot.json", "/targets/plans"])
    @pytest.mark.parametrize("fault", ["cut_short", "stall", "drop", "refuse"])
    def test_faults_are_told_and_pass(self, online, part, fault):
        server, device = online
        if fault == "cut_short":
            server.cut_short(part, 10)
        elif fault == "stall":
            server.stall(part, 10)
        elif fault == "drop":
            server.drop(part)
        else:
            server.give(part, b"try later", 503)
        assert device.plan().code == "download_failed"
        server.mend()
        assert device.plan().status == 0

    @pytest.mark.parametrize("fault", ["cut_short", "drop", "refuse", "forbid"])
    def test_faults_of_chunks_are_told_and_pass(self, online, fault):
        server, device = online
        if fault == "cut_short":
            server.cut_short("/chunks", 1000)
        elif fault == "drop":
            server.drop("/chunks")
        else:
            server.give("/chunks", b"no", 503 if fault == "refuse" else 403)
        assert device.fetch(1).code == "download_failed"
        server.mend()
        device.install(1)

    def test_a_chunk_that_comes_the_second_time_is_enough(self, online):
        server, device = online
        seen = set()

        def fault(request, body):
            known = request.path in seen
            seen.add(request.path)
            server.send(request, body if known else b"", 200 if known else 503)

        server.answer("/chunks", fault)
        device.install(1)

    @pytest.mark.parametrize("kind", ["a link", "a folder", "a pipe"])
    def test_a_stick_with_something_else_in_it(self, fleet, tmp_path, kind):
        path = fleet.home.metadata / "timestamp.json"
        content = path.read_bytes()
        path.unlink()
        if kind == "a link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "a folder":
            path.mkdir()
        else:
            os.mkfifo(path)
        device = Device(tmp_path / "device", fleet.root, fleet.url)
        answered = device.plan()
        assert answered.code == "download_failed"
        assert kind.removeprefix("a ") in answered.message


class TestClocks:
    def test_at_1970_what_was_issued_last_is_the_time(self, online, monkeypatch):
        _, device = online
        issued = datetime.now(UTC)
        at(monkeypatch, datetime(1970, 1, 1, tzinfo=UTC))
        answered = device.plan()
        assert answered.status == 0
        trusted = datetime.fromisoformat(answered.event("metadata")["trusted_time"])
        assert abs(trusted - issued) < timedelta(hours=1)

    def test_at_1970_a_freeze_is_seen_once_newer_was_seen(self, fleet, settled, tmp_path, monkeypatch):
        _, device = settled
        earlier = kept(fleet, tmp_path)
        later = datetime.now(UTC) + timedelta(days=60)
        fleet.signing(later).install(renew=True)
        at(monkeypatch, later)
        assert device.plan().status == 0
        at(monkeypatch, datetime(1970, 1, 1, tzinfo=UTC))
        shutil.copytree(device.metadata, tmp_path / "tuf")
        for name in ("timestamp.json", "snapshot.json"):
            (device.metadata / name).unlink()
        go_back(fleet, earlier, "timestamp.json")
        assert device.plan().code == "metadata_expired"

    def test_at_1970_the_images_build_time_counts(self, online, monkeypatch):
        _, device = online
        at(monkeypatch, datetime(1970, 1, 1, tzinfo=UTC))
        device.options = ["--build-time", (datetime.now(UTC) + timedelta(days=400)).isoformat()]
        assert device.plan().code == "metadata_expired"

    def test_in_2100_everything_has_expired_and_back_again_it_has_not(self, settled, monkeypatch):
        _, device = settled
        with monkeypatch.context() as patch:
            at(patch, datetime(2100, 1, 1, tzinfo=UTC))
            answered = device.plan()
            assert answered.code == "metadata_expired"
            assert "clock" in answered.events[-1]["hint"]
        assert device.plan().status == 0

    def test_an_issue_time_beyond_the_root_is_not_kept(self, fleet, settled):
        _, device = settled
        fleet.signing(datetime(2100, 1, 1, tzinfo=UTC)).install(renew=True)
        assert device.plan().code == "metadata_expired"
        fleet.signing().install(renew=True)
        assert device.plan().status == 0

    def test_an_operators_clock_that_was_ahead_is_forgotten_with_the_key(self, fleet, settled):
        """A timestamp issued in the future holds devices there; the rotation of its key lets them back."""
        _, device = settled
        fleet.signing(datetime.now(UTC) + timedelta(days=200)).install(renew=True)
        assert device.plan().status == 0
        fleet.signing().install(renew=True)
        assert device.plan().code == "metadata_expired"
        rotating.rotate(fleet.signing(), "timestamp", "")
        assert device.plan().status == 0

    @pytest.mark.parametrize("said", ["", "yesterday", 7, None, "2026-11-21T00:00:00", "0001-01-01T00:00:00+14:00"])
    def test_an_issue_time_that_is_none_is_passed_over(self, fleet, online, said):
        _, device = online
        forge(fleet, "timestamp", lambda signed: signed.unrecognized_fields.update({"x-edged-issued": said}))
        assert device.plan().status == 0

    def test_system_time_is_not_kept(self, settled):
        _, device = settled
        said = json.loads((device.metadata / "issued").read_bytes())
        timestamp = json.loads((device.metadata / "timestamp.json").read_bytes())
        assert datetime.fromisoformat(said["at"]) == datetime.fromisoformat(timestamp["signed"]["x-edged-issued"])


def test_what_is_planned_and_published_is_fetched_by_a_device_that_comes_late(fleet, tmp_path):
    """Every key rotated, twice, and the device knows the first root only."""
    for role in ("timestamp", "snapshot", "plans", "targets", "root", "models", "root"):
        _, waiting = rotating.rotate(fleet.signing(), role, "")
        assert waiting == []
    device = Device(tmp_path / "device", fleet.root, fleet.url)
    assert device.plan().status == 0
    folder = device.install(1)
    assert (folder / "model.onnx").read_bytes() == (DIGITS / "model.onnx").read_bytes()
    assert planning.terms_of(Listing(fleet.signing()).plan(), "digits", "generic").revision == 1
