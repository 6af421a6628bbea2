"""The image's own bundles: found in order, and none hidden by a bad one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.permissions import plain_user

from edged.bundle.factory import discover
from edged.bundle.folder import pack
from edged.errors import Code


@pytest.fixture
def factory(tmp_path) -> Path:
    folder = tmp_path / "factory"
    folder.mkdir()
    return folder


@pytest.fixture
def place(author):
    """Puts a packed bundle into the factory folder, under the names given."""

    def put(model: str, revision: int | str, *, says: tuple[str, int] | None = None) -> Path:
        name, number = says or (model, int(revision))
        text = author.good.replace('"digits"', f'"{name}"').replace("revision = 7", f"revision = {number}")
        folder = author.write(text.replace("min_revision = 2\n", ""), into=f"factory/{model}/{revision}")
        pack(folder)
        return folder

    return put


def test_bundles_come_by_model_and_the_highest_revision_first(factory, place):
    for model, revision in [("zebra", 1), ("digits", 9), ("digits", 10), ("digits", 2), ("ant", 3)]:
        place(model, revision)
    found = discover(factory)
    expected = [("ant", 3), ("digits", 10), ("digits", 9), ("digits", 2), ("zebra", 1)]
    assert [(entry.model, entry.revision) for entry in found] == expected
    for entry in found:
        assert entry.error is None
        assert entry.manifest is not None
        assert (entry.manifest.name, entry.manifest.revision) == (entry.model, entry.revision)
        assert entry.folder == factory / entry.model / str(entry.revision)


def test_a_missing_or_empty_factory_folder_holds_none(tmp_path, factory):
    assert discover(tmp_path / "absent") == []
    assert discover(factory) == []
    (factory / "digits").mkdir()
    assert discover(factory) == []


def test_hidden_entries_and_plain_files_are_no_bundles(factory, place):
    place("digits", 7)
    (factory / "README").write_bytes(b"")
    (factory / ".cache" / "1").mkdir(parents=True)
    (factory / "digits" / "notes.txt").write_bytes(b"")
    (factory / "digits" / ".partial").mkdir()
    (factory / "digits" / "latest").symlink_to("notes.txt")
    assert [(entry.model, entry.revision) for entry in discover(factory)] == [("digits", 7)]


def spoil_size(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"{")


def spoil_nothing_packed(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def spoil_all(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def spoil_loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def spoil_pipe(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_size, "has 0 bytes, and the manifest says 15"),
        (spoil_manifest, "is not JSON"),
        (spoil_nothing_packed, "run `edgectl bundle pack"),
        (spoil_all, "has no manifest.json"),
        (spoil_loop, "digits/8"),
        (spoil_pipe, "named pipe"),
    ],
)
def test_one_bad_bundle_hides_no_other(factory, place, spoil, told):
    place("ant", 1)
    place("digits", 7)
    spoil(place("digits", 8))
    place("digits", 9)
    found = discover(factory)
    expected = [("ant", 1), ("digits", 9), ("digits", 8), ("digits", 7)]
    assert [(entry.model, entry.revision) for entry in found] == expected
    bad = found[2]
    assert bad.manifest is None
    assert bad.error is not None
    assert bad.error.code is Code.BUNDLE_INVALID
    assert told in str(bad.error)
    assert all(entry.manifest is not None and entry.error is None for entry in found if entry is not bad)


@pytest.mark.parametrize(
    ("folder", "says", "told"),
    [
        (("digits", 7), ("letters", 7), "the folder names the model digits, and its manifest letters"),
        (("digits", 7), ("digits", 8), "the folder names the revision 7, and its manifest 8"),
        (("digits", "007"), ("digits", 7), "is named by no revision"),
        (("digits", "0"), ("digits", 7), "is named by no revision"),
        (("digits", "latest"), ("digits", 7), "is named by no revision"),
        (("digits", "\u0667"), ("digits", 7), "is named by no revision"),
    ],
)
def test_a_bundle_in_another_ones_place_is_an_error(factory, place, folder, says, told):
    place(*folder, says=says)
    (entry,) = discover(factory)
    assert entry.manifest is None
    assert told in str(entry.error)
    assert str(factory / folder[0] / str(folder[1])) in str(entry.error)


def test_a_model_folder_that_cannot_be_read_is_told(factory, place):
    place("digits", 7)
    (factory / "loop").symlink_to("loop")
    (factory / "nowhere").symlink_to("absent")
    found = discover(factory)
    assert [(entry.model, entry.revision) for entry in found] == [("digits", 7), ("loop", 0), ("nowhere", 0)]
    assert [entry.error is None for entry in found] == [True, False, False]
    assert "loop: cannot be read" in str(found[1].error)
    assert "nowhere: cannot be read" in str(found[2].error)


@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        ("digits/8", [("ant", 1), ("digits", 9), ("digits", 8), ("digits", 7)]),
        ("digits/8/int8", [("ant", 1), ("digits", 9), ("digits", 8), ("digits", 7)]),
        ("digits/8/manifest.json", [("ant", 1), ("digits", 9), ("digits", 8), ("digits", 7)]),
        ("digits", [("ant", 1), ("digits", 0)]),
        (".", [("", 0)]),
    ],
)
def test_what_may_not_be_read_hides_nothing_else(factory, place, monkeypatch, request, closed, expected):
    for model, revision in [("ant", 1), ("digits", 7), ("digits", 8), ("digits", 9)]:
        place(model, revision)
    monkeypatch.chdir(factory.parent)  # the folders above are closed to a plain user as well
    factory.parent.chmod(0o755)
    (factory / closed).chmod(0)
    request.addfinalizer(lambda: (factory / closed).chmod(0o755))
    with plain_user():
        found = discover(Path("factory"))
    assert [(entry.model, entry.revision) for entry in found] == expected
    bad = [entry for entry in found if entry.manifest is None]
    assert len(bad) == 1
    assert "Permission denied" in str(bad[0].error)
    assert f"factory/{closed}".removesuffix("/.") in str(bad[0].error)


def test_a_factory_folder_that_cannot_be_reached_is_told(factory, place, monkeypatch, request):
    place("digits", 7)
    monkeypatch.chdir(factory.parent)
    factory.parent.chmod(0)
    request.addfinalizer(lambda: factory.parent.chmod(0o755))
    with plain_user():
        (entry,) = discover(Path("factory"))
    assert "factory: cannot be read: Permission denied" in str(entry.error)


def test_a_factory_folder_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "factory").write_bytes(b"")
    (entry,) = discover(tmp_path / "factory")
    assert (entry.model, entry.revision) == ("", 0)
    assert "factory: cannot be read: Not a directory" in str(entry.error)


def test_folders_may_be_reached_by_links(tmp_path, factory, place):
    place("digits", 7)
    (factory / "digits").rename(tmp_path / "elsewhere")
    (factory / "digits").symlink_to(tmp_path / "elsewhere")
    (entry,) = discover(factory)
    assert entry.manifest is not None
