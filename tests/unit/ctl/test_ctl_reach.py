"""Why a socket cannot be reached, in words."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.ctl import reach
from edged.ctl.reach import Door
from edged.errors import Code, EdgedError

HINT = "start it somehow"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A socket that somebody listens on."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield path


def refusal(path: Path) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        Door(path, HINT, 1.0)
    return caught.value


def test_a_socket_that_is_listened_on_is_reached_by_a_short_path(listening: Path):
    door = Door(listening, HINT, 1.0)
    try:
        assert len(door.path) < 40
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(door.path)
    finally:
        door.close()


def test_a_path_too_long_for_a_socket_address_is_reached(tmp_path: Path):
    folder = tmp_path.joinpath(*["a folder of 60 letters, which is a long name for a folder.."] * 3)
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(folder, os.O_PATH)
        server.bind(f"/proc/self/fd/{descriptor}/s")
        os.close(descriptor)
        server.listen()
        Door(folder / "s", HINT, 1.0).close()


def test_what_is_not_there(tmp_path: Path):
    for path in (tmp_path / "s", tmp_path / "no" / "folder" / "s"):
        error = refusal(path)
        assert error.code is Code.NOT_RUNNING
        assert error.message == f"edged is not running, or it listens elsewhere: {path} is not there"
        assert error.hint == HINT


def test_what_nobody_listens_on(tmp_path: Path):
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(left))
    (tmp_path / "file").touch()
    for path in (left, tmp_path / "file"):
        error = refusal(path)
        assert (error.code, error.message) == (
            Code.NOT_RUNNING,
            f"edged is not running, or it listens elsewhere: nobody listens on {path}",
        )


def test_one_that_is_too_busy_to_be_reached(tmp_path: Path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(path))
        server.listen(0)
        first.connect(str(path))
        with pytest.raises(EdgedError) as caught:
            Door(path, HINT, 0.01)
    assert caught.value.message == f"edged does not answer on {path}"


@pytest.fixture
def shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody is shut out, root too."""

    def connect(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", connect)


def named_group() -> grp.struct_group:
    return next(group for group in grp.getgrall() if group.gr_gid and "root" not in group.gr_mem)


def stand_in(monkeypatch: pytest.MonkeyPatch, group: int, mode: int) -> None:
    """Makes the socket look as if it were of that group and mode: only root can make one so."""
    stat = Path.stat

    def looked(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        return os.stat_result((mode, *found[1:5], group, *found[6:])) if path.name == "s" else found

    monkeypatch.setattr(Path, "stat", looked)


@pytest.mark.usefixtures("shut_out")
def test_the_group_that_may_is_named(listening: Path, monkeypatch: pytest.MonkeyPatch):
    group = named_group()
    stand_in(monkeypatch, group.gr_gid, 0o660)
    error = refusal(listening)
    assert error.code is Code.NOT_PERMITTED
    assert error.message == f"you may not connect to {listening}: only the group {group.gr_name} may"
    assert f"`sudo usermod -aG {group.gr_name} $USER`" in error.hint


@pytest.mark.usefixtures("shut_out")
def test_who_was_put_into_the_group_logs_in_again(listening: Path, monkeypatch: pytest.MonkeyPatch):
    group = named_group()
    stand_in(monkeypatch, group.gr_gid, 0o660)
    mine = grp.struct_group((group.gr_name, "x", group.gr_gid, [reach._user(os.geteuid())]))
    monkeypatch.setattr(grp, "getgrgid", lambda _: mine)
    assert refusal(listening).hint == "you were put into it after this session began: log in again"


@pytest.mark.usefixtures("shut_out")
def test_a_group_without_a_name_and_no_group_at_all(listening: Path, monkeypatch: pytest.MonkeyPatch):
    unnamed = max(group.gr_gid for group in grp.getgrall() if group.gr_gid < 2**31) + 7
    stand_in(monkeypatch, unnamed, 0o660)
    assert f"only the group {unnamed} may, which has no name" in refusal(listening).message
    for group, mode in ((0, 0o660), (unnamed, 0o600)):
        stand_in(monkeypatch, group, mode)
        error = refusal(listening)
        assert error.message.endswith(f": it is {reach._user(os.geteuid())}'s alone")
        assert error.hint == "try with sudo"
