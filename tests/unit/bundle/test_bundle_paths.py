"""No path leads out of a bundle, whatever it says and whatever stands there."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import inside
from edged.bundle.paths import fault, open_inside
from edged.errors import Code, EdgedError

FOLDER = "/srv/bundle"

parts = st.sampled_from(
    ["..", ".", "", " ", "a", "b.onnx", "ü", "...", "a ", "~", "-", "manifest.json", "\\", "\0", "C:"]
)
any_path = st.text(max_size=40) | st.lists(parts, max_size=6).map("/".join) | st.text("./\\a\0é", max_size=12)


@given(any_path)
def test_a_path_without_fault_stays_inside_and_is_itself(path):
    if not fault(path):
        joined = os.path.join(FOLDER, path)  # noqa: PTH118 - pathlib would tidy it up
        assert os.path.normpath(joined) == joined == f"{FOLDER}/{path}"
        assert Path(joined).is_relative_to(FOLDER)
        assert unicodedata.normalize("NFC", path) == path
        assert not any(letter in path for letter in "\0\n\x1b\u202e\\")
        assert all(0 < len(part.encode()) <= 255 for part in path.split("/"))


@given(any_path)
def test_a_path_with_a_fault_opens_nothing(path):
    if fault(path):
        with pytest.raises(EdgedError) as raised:
            open_inside(Path("/"), path)
        assert raised.value.code is Code.BUNDLE_INVALID
        assert fault(path) in raised.value.message


plain_part = st.text("abcxyzABC019_-", min_size=1, max_size=20)


@given(st.lists(plain_part, min_size=1, max_size=5).map("/".join))
def test_plain_paths_have_no_fault(path):
    assert fault(path) == ""


@pytest.mark.parametrize(
    "path", ["model.onnx", "a/b/c", ".hidden/x", "mit leerzeichen.onnx", "größe.onnx", "模型.onnx"]
)
def test_paths_that_people_use_have_no_fault(path):
    assert fault(path) == ""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "has an empty part"),
        ("/", "is absolute"),
        ("//a", "is absolute"),
        ("a/", "has an empty part"),
        ("a/./b", 'has a part "."'),
        ("a/..", 'has a part ".."'),
        ("a\\b", "holds a backslash"),
        ("a\0", "holds control characters or invisible ones"),
        ("a\x7f", "holds control characters or invisible ones"),
        ("a\u202eb", "holds control characters or invisible ones"),
        ("a\u2028b", "holds control characters or invisible ones"),
        ("\ud800", "holds control characters or invisible ones"),
        ("e\u0301", "is not in Unicode's normal form C"),
        ("a. /b", 'has a part that ends with " "'),
        ("a...", 'has a part that ends with "."'),
        ("x" * 256, "has a part longer than 255 bytes"),
        ("bundle.toml", "is the bundle's own description"),
        ("MANIFEST.json", "is the bundle's own description"),
    ],
)
def test_the_reason_is_told(path, reason):
    assert fault(path) == reason


def test_the_names_of_the_descriptions_are_free_further_down():
    assert fault("a/manifest.json") == ""


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_is_opened_and_its_descriptor_is_the_only_one_left(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "model").write_bytes(b"content")
    before = open_files()
    descriptor = open_inside(tmp_path, "a/b/model")
    assert open_files() == before + 1
    assert not os.get_inheritable(descriptor)
    with open(descriptor, "rb") as file:
        assert file.read() == b"content"


def lay_out(root: Path) -> Path:
    folder = root / "bundle"
    (folder / "deep").mkdir(parents=True)
    (folder / "file").write_bytes(b"inside")
    (folder / "deep" / "file").write_bytes(b"inside")
    (root / "outside").mkdir()
    (root / "outside" / "file").write_bytes(b"outside")
    (folder / "link").symlink_to("../outside/file")
    (folder / "link_inside").symlink_to("file")
    (folder / "link_nowhere").symlink_to("nowhere")
    (folder / "links").symlink_to("../outside")
    (folder / "deep" / "links").symlink_to("../../outside")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize(
    ("path", "shown", "what"),
    [
        ("absent", "absent", "does not exist"),
        ("absent/file", "absent", "does not exist"),
        ("deep/absent", "deep/absent", "does not exist"),
        ("link", "link", "is a link"),
        ("link_inside", "link_inside", "is a link"),
        ("link_nowhere", "link_nowhere", "is a link"),
        ("links/file", "links", "is a link"),
        ("deep/links/file", "deep/links", "is a link"),
        ("pipe", "pipe", "is a named pipe (FIFO)"),
        ("deep", "deep", "is a folder"),
        ("file/file", "file", "is a file"),
    ],
)
def test_what_is_no_file_of_the_bundle_is_told_and_not_opened(tmp_path, path, shown, what):
    folder = lay_out(tmp_path)
    before = open_files()
    with pytest.raises(EdgedError) as raised:
        open_inside(folder, path)
    assert raised.value.message == f"{folder / shown}: {what}"
    assert raised.value.hint
    assert open_files() == before


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("link", "cannot be opened: Too many levels of symbolic links"),
        ("links/file", "cannot be opened: Not a directory"),
        ("deep/links/file", "cannot be opened: Not a directory"),
        ("pipe", "changed while it was opened"),
        ("deep", "changed while it was opened"),
        ("absent", "cannot be opened: No such file or directory"),
    ],
)
def test_what_took_a_files_place_after_the_look_is_refused_without_waiting(tmp_path, monkeypatch, path, what):
    folder = lay_out(tmp_path)
    monkeypatch.setattr(inside, "_check_kind", lambda *_, **__: None)
    before = open_files()
    with pytest.raises(EdgedError) as raised:
        open_inside(folder, path)
    assert what in raised.value.message
    assert open_files() == before


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(EdgedError, match="absent: cannot be opened: No such file or directory"):
        open_inside(tmp_path / "absent", "file")


def test_the_bundles_own_folder_may_be_reached_by_a_link(tmp_path):
    folder = lay_out(tmp_path)
    (tmp_path / "current").symlink_to(folder)
    with open(open_inside(tmp_path / "current", "deep/file"), "rb") as file:
        assert file.read() == b"inside"
