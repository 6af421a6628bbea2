"""Requests to the operating system: whole or not there, bounded, withdrawn or taken; results are hostile until read."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from edged.system.os_requests import MAX_REQUEST_BYTES, MOST_REQUESTS, OsImage, OsRequests, OsResult, OsStatus

NONCE = "8s0mT7cQ1l3uZ5yKp2hV9w"
RESULT = OsResult(nonce=NONCE, command="os_upgrade", status="done", text="done", at_ms=7)


@pytest.fixture
def desk(tmp_path) -> OsRequests:
    found = OsRequests(tmp_path, "b2")
    found.make_folders()
    return found


def result_file(tmp_path: Path, name: str = NONCE) -> Path:
    return tmp_path / f"os/results/{name}.json"


def test_a_request_is_taken_or_withdrawn_and_never_both(tmp_path, desk):
    desk.drop(NONCE, b"signed")
    path = tmp_path / f"os/requests/{NONCE}.json"
    assert path.read_bytes() == b"signed"
    assert desk.withdraw(NONCE)
    assert not desk.withdraw(NONCE), "the helper has taken it"
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_requests_are_bounded(desk):
    with pytest.raises(OverflowError):
        desk.drop(NONCE, bytes(MAX_REQUEST_BYTES + 1))
    for number in range(MOST_REQUESTS):
        desk.drop(f"{number:016d}", b"signed")
    with pytest.raises(OverflowError):
        desk.drop(NONCE, b"signed")


@pytest.mark.parametrize("nonce", ["", "../../etc/passwd", "a/b" * 9, "n" * 65, "n" * 15, "ü" * 20])
def test_a_name_that_is_no_nonce_names_no_file(desk, nonce):
    for act in (lambda: desk.drop(nonce, b""), lambda: desk.withdraw(nonce), lambda: desk.result(nonce)):
        with pytest.raises(ValueError, match="no nonce"):
            act()


def test_a_result_is_read_until_it_is_forgotten(tmp_path, desk):
    assert desk.result(NONCE) is None
    result_file(tmp_path).write_bytes(msgspec.json.encode(RESULT))
    assert desk.result(NONCE) == RESULT
    desk.forget(NONCE)
    desk.forget(NONCE)
    assert desk.result(NONCE) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 60_000,
        b"x" * 70_000,
        msgspec.json.encode({"nonce": NONCE, "command": "os_upgrade", "status": "perhaps"}),
        msgspec.json.encode({"nonce": "n" * 22, "command": "os_upgrade", "status": "done"}),
    ],
    ids=["empty", "cut", "nested", "large", "unknown status", "another's"],
)
def test_what_is_no_result_is_none(tmp_path, desk, content):
    result_file(tmp_path).write_bytes(content)
    assert desk.result(NONCE) is None


def test_all_results_are_found_and_what_is_none_is_removed(tmp_path, desk):
    result_file(tmp_path).write_bytes(msgspec.json.encode(RESULT))
    for name in ("n" * 22, "no nonce"):
        result_file(tmp_path, name).write_bytes(b"{")
    assert desk.answered() == [RESULT]
    assert [path.stem for path in result_file(tmp_path).parent.iterdir()] == [NONCE]


def test_no_link_or_pipe_is_followed_and_nothing_hangs(tmp_path, desk):
    (tmp_path / "elsewhere").write_bytes(msgspec.json.encode(RESULT))
    result_file(tmp_path).symlink_to(tmp_path / "elsewhere")
    assert desk.result(NONCE) is None
    result_file(tmp_path).unlink()
    os.mkfifo(result_file(tmp_path))
    assert desk.result(NONCE) is None


def test_the_status_is_what_the_helper_said_last(tmp_path, desk):
    assert desk.status() is None
    status = OsStatus(at_ms=7, boot="b2", booted=OsImage("registry.example/os:41", "41", "sha256:0", 1))
    (tmp_path / "os/status.json").write_bytes(msgspec.json.encode(status))
    assert desk.status() == status
    assert OsRequests(tmp_path, "b3").status() is None, "in another boot it is not believed"
