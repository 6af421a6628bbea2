"""The store: revisions whole or not there, files once, nothing believed that was not hashed."""

import errno
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from edged import durable, inside
from edged.bundle.folder import read_manifest
from edged.bundle.manifest import encode
from edged.errors import Code, EdgedError
from edged.models import files
from edged.models.store import Store

BUNDLE = Path(__file__).resolve().parents[3] / "bootc/models/digits/1"


def staged(store, revision=1, *, change=b""):
    """Digits as the fetcher leaves it, under another revision, its first model file with `change` at its end."""
    manifest = read_manifest(BUNDLE)
    contents = {file.path: (BUNDLE / file.path).read_bytes() for file in manifest.files}
    contents["model.onnx"] += change
    files = tuple(
        msgspec.structs.replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for file, content in zip(manifest.files, contents.values(), strict=True)
    )
    manifest = msgspec.structs.replace(manifest, revision=revision, files=files)
    folder = store.staging("digits", revision)
    (folder / "blobs").mkdir(parents=True)
    for file in files:
        (folder / "blobs" / file.sha256).write_bytes(contents[file.path])
    (folder / "manifest.json").write_bytes(encode(manifest))
    return folder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def blobs(store):
    return sorted(path.name for path in (store.root / "blobs").rglob("*") if path.is_file())


class TestTakingIn:
    def test_gives_a_bundle_that_is_as_published(self, store):
        folder = staged(store)
        manifest = store.take_in(folder)
        assert store.revisions("digits") == [1]
        assert store.models() == ["digits"]
        assert store.manifest("digits", 1) == manifest == read_manifest(BUNDLE)
        for file in manifest.files:
            path = store.path("digits", 1) / file.path
            assert path.read_bytes() == (BUNDLE / file.path).read_bytes()
            assert path.stat().st_mode & 0o777 == 0o444
        assert not folder.exists()

    def test_keeps_a_file_once(self, store):
        store.take_in(staged(store))
        before = store.used_bytes()
        store.take_in(staged(store, 2, change=b"x"))
        assert len(blobs(store)) == len(read_manifest(BUNDLE).files) + 1
        one, two = (store.path("digits", revision) / "model.int8.onnx" for revision in (1, 2))
        assert one.samefile(two)
        assert store.used_bytes() - before < 2 * (BUNDLE / "model.onnx").stat().st_size
        assert store.revisions("digits") == [2, 1]

    def test_needs_no_blob_again_that_is_here(self, store):
        store.take_in(staged(store))
        folder = staged(store, 2, change=b"x")
        for file in read_manifest(BUNDLE).files:
            (folder / "blobs" / file.sha256).unlink(missing_ok=True)
        store.take_in(folder)
        assert store.manifest("digits", 2)

    @pytest.mark.parametrize("harm", ["missing", "cut", "flipped", "a link", "a folder"])
    def test_refuses_what_is_not_as_the_manifest_says(self, store, harm):
        folder = staged(store)
        victim = folder / "blobs" / read_manifest(BUNDLE).file("model.onnx").sha256
        content = victim.read_bytes()
        victim.unlink()
        if harm == "cut":
            victim.write_bytes(content[:-1])
        elif harm == "flipped":
            victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif harm == "a link":
            victim.symlink_to(BUNDLE / "model.onnx")
        elif harm == "a folder":
            victim.mkdir()
            with pytest.raises(OSError, match=r"directory"):
                store.take_in(folder)
            return
        with pytest.raises(EdgedError, match=r"model\.onnx") as caught:
            store.take_in(folder)
        assert caught.value.code == Code.DIGEST_MISMATCH
        assert store.revisions("digits") == []
        assert not victim.exists(), "what is not right is not to be found again"

    def test_refuses_another_bundle_than_the_folder_names(self, store):
        folder = staged(store)
        other = store.staging("digits", 9)
        folder.rename(other)
        with pytest.raises(EdgedError, match="holds digits revision 1"):
            store.take_in(other)

    def test_refuses_another_content_under_a_revision(self, store):
        store.take_in(staged(store))
        with pytest.raises(EdgedError, match="another content"):
            store.take_in(staged(store, change=b"x"))
        assert store.manifest("digits", 1) == read_manifest(BUNDLE)

    def test_refuses_a_manifest_that_points_outside(self, store, tmp_path):
        folder = staged(store)
        raw = (folder / "manifest.json").read_bytes()
        (folder / "manifest.json").write_bytes(raw.replace(b"model.onnx", b"../../../x.onnx"))
        with pytest.raises(EdgedError) as caught:
            store.take_in(folder)
        assert caught.value.code == Code.BUNDLE_INVALID
        assert not list(tmp_path.rglob("x.onnx"))

    def test_may_be_cut_off_at_each_durable_step(self, store, monkeypatch):
        class PowerCutError(Exception):
            pass

        steps = 0
        while True:
            left = steps
            originals = {name: getattr(durable, name) for name in ("place", "write", "sync_folder")}

            def stepped(name, originals=originals):
                def step(*arguments, **options):
                    nonlocal left
                    if left == 0:
                        raise PowerCutError
                    left -= 1
                    return originals[name](*arguments, **options)

                return step

            folder = staged(store)
            with monkeypatch.context() as patch:
                for name in originals:
                    patch.setattr(durable, name, stepped(name))
                try:
                    store.take_in(folder)
                    break
                except PowerCutError:
                    pass
            again = Store(store.root)
            again.tidy()
            if again.revisions("digits"):
                assert again.manifest("digits", 1)
            if folder.exists():
                again.take_in(folder)
            assert again.manifest("digits", 1) == read_manifest(BUNDLE)
            assert again.verify() == []
            shutil.rmtree(store.root)
            steps += 1
        assert steps > 10


class TestCollecting:
    def test_keeps_what_it_is_told_to(self, store):
        for revision in (1, 2, 3):
            store.take_in(staged(store, revision, change=bytes([revision])))
        collected = store.collect(store.keys(), {("digits", 1), ("digits", 3)})
        assert collected.revisions == (("digits", 2),)
        assert collected.blobs == 1
        assert collected.bytes > 0
        assert store.revisions("digits") == [3, 1]
        assert store.verify() == []

    def test_keeps_the_blobs_that_a_download_counts_on(self, store):
        store.take_in(staged(store))
        folder = staged(store, 2, change=b"x")
        for name in blobs(store):
            (folder / "blobs" / name).unlink(missing_ok=True)
        store.collect(store.keys(), {("digits", 2)})
        assert store.revisions("digits") == []
        store.take_in(folder)
        assert store.manifest("digits", 2)

    def test_leaves_nothing_when_nothing_is_kept(self, store):
        store.take_in(staged(store))
        staged(store, 2)
        store.collect(store.keys(), ())
        assert store.used_bytes() == 0
        assert not list(store.root.rglob("*.onnx"))

    def test_leaves_what_came_since_it_was_asked_what_to_keep(self, store):
        store.take_in(staged(store))
        among = store.keys()
        folder = staged(store, 2)
        store.take_in(staged(store, 3, change=b"x"))
        assert store.collect(among, ()).revisions == (("digits", 1),)
        assert folder.exists()
        assert store.revisions("digits") == [3]
        assert store.keys() == {("digits", 2), ("digits", 3)}

    def test_takes_away_what_has_no_models_name(self, store):
        (store.root / "staging/No Model/1").mkdir(parents=True)
        store.collect(store.keys(), ())
        assert store.keys() == set()

    def test_serving_from_what_goes_goes_on(self, store):
        store.take_in(staged(store))
        path = store.path("digits", 1) / "model.onnx"
        with path.open("rb") as opened:
            store.collect(store.keys(), ())
            assert opened.read() == (BUNDLE / "model.onnx").read_bytes()


class TestVerifying:
    def flip(self, store):
        path = store.path("digits", 1) / "model.onnx"
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(1000)
            byte = file.read(1)
            file.seek(1000)
            file.write(bytes([byte[0] ^ 1]))

    def test_finds_a_flipped_bit_and_mends_it(self, store):
        store.take_in(staged(store))
        store.take_in(staged(store, 2, change=b"x"))
        assert store.verify() == []
        self.flip(store)
        (damage,) = store.verify()
        assert damage.digest == read_manifest(BUNDLE).file("model.onnx").sha256
        assert damage.revisions == (("digits", 1),)
        assert "another digest" in damage.what
        store.discard(damage)
        store.take_in(staged(store))
        assert store.verify() == []
        assert store.manifest("digits", 1) == read_manifest(BUNDLE)

    def test_takes_nothing_for_damaged_that_it_could_not_open(self, store, monkeypatch):
        store.take_in(staged(store))
        digest = read_manifest(BUNDLE).file("model.onnx").sha256

        open_regular = inside.open_regular

        def full(folder: Path, name: str) -> int:
            if name in ("model.onnx", digest):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return open_regular(folder, name)

        with monkeypatch.context() as patch:
            patch.setattr("edged.models.files.inside.open_regular", full)
            for look in (store.verify, lambda: files.fault(store.path("digits", 1) / "model.onnx", digest)):
                with pytest.raises(OSError, match="Too many open files"):
                    look()
        assert store.blob(digest).exists()
        assert store.verify() == []

    def test_finds_a_blob_that_is_gone(self, store):
        store.take_in(staged(store))
        digest = read_manifest(BUNDLE).file("model.onnx").sha256
        store.blob(digest).unlink()
        assert [damage.digest for damage in store.verify()] == [digest]

    def test_takes_what_is_collected_while_it_reads_for_no_damage(self, store, monkeypatch):
        for revision in (1, 2):
            store.take_in(staged(store, revision, change=bytes([revision])))
        store.remove("digits", 1)  # its blob is nobody's now
        fault = files.fault

        def collecting(*asked):
            store.collect(store.keys(), [])
            return fault(*asked)

        monkeypatch.setattr(files, "fault", collecting)
        assert store.verify() == []
        assert store.models() == []

    def test_finds_a_manifest_that_cannot_be_read(self, store):
        store.take_in(staged(store))
        path = store.path("digits", 1) / "manifest.json"
        path.chmod(0o644)
        path.write_bytes(b"")
        (damage,) = store.verify()
        assert damage.revisions == (("digits", 1),)
        store.discard(damage)
        assert store.revisions("digits") == []
        store.take_in(staged(store))
        assert store.verify() == []

    def test_what_is_taken_in_later_does_not_use_a_damaged_blob(self, store):
        store.take_in(staged(store))
        self.flip(store)
        folder = staged(store, 2)
        store.take_in(folder)
        assert store.manifest("digits", 2)
        assert (store.path("digits", 2) / "model.onnx").read_bytes() == (BUNDLE / "model.onnx").read_bytes()


class TestRoom:
    def test_is_what_the_quota_leaves(self, store):
        store.take_in(staged(store))
        used = store.used_bytes()
        assert used >= sum(file.size for file in read_manifest(BUNDLE).files)
        assert Store(store.root, quota_bytes=used + 1000).room_bytes() == 1000
        assert Store(store.root, quota_bytes=used - 1).room_bytes() == 0

    def test_leaves_the_reserve(self, store):
        disk = os.statvfs(store.root.parent)
        assert Store(store.root, reserve_bytes=disk.f_blocks * disk.f_frsize).room_bytes() == 0
        assert Store(store.root).room_bytes() > 0

    @pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system: needs root")
    def test_a_full_disk_is_told_and_passes(self, tmp_path):
        mount = tmp_path / "small"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=22", "tmpfs", mount], check=True)
        try:
            store = Store(mount / "store")
            folder = staged(store)
            with pytest.raises(EdgedError) as caught:
                store.take_in(folder)
            assert caught.value.code == Code.STORAGE_FULL
            assert store.revisions("digits") == []
            subprocess.run(["mount", "-o", "remount,nr_inodes=100", mount], check=True)
            store.tidy()
            store.take_in(folder)
            assert store.verify() == []
        finally:
            subprocess.run(["umount", mount], check=True)


class TestStaging:
    def test_of_other_revisions_is_given_up_and_no_other_models(self, store):
        for revision in (1, 2):
            staged(store, revision)
        other = store.staging("other", 1)
        other.mkdir(parents=True)
        store.discard_other_staging("digits", 2)
        assert not store.staging("digits", 1).exists()
        assert store.staging("digits", 2).exists()
        assert other.exists()

    def test_of_a_model_of_which_nothing_came_is_none(self, store):
        store.discard_other_staging("digits", 2)
        assert not store.staging("digits", 2).parent.exists(), "nothing is made either"


@pytest.mark.parametrize("name", ["../revisions/digits", "/etc", "a/b", "", ".", "Digits", "x" * 65, "a\n"])
def test_what_is_no_models_name_is_no_path(store, name):
    for folder in (store.path, store.staging):
        with pytest.raises(EdgedError, match="is no model's name") as caught:
            folder(name, 1)
        assert caught.value.code is Code.INVALID_ARGUMENT
