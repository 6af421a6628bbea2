"""The daemon's folders: made, kept from others, and locked so that there is one daemon."""

import os
import signal
import stat

import pytest
from support.polling import PATIENCE_S

from edged.errors import Code, EdgedError
from edged.system.folders import FolderLock, Lock, keep_private, make_folder, open_to_all

TAKE = """
from pathlib import Path
from edged.system.folders import Lock
lock = Lock(Path(sys.argv[1]))
"""


class TestTheLock:
    def test_names_its_holder(self, tmp_path):
        lock = Lock(tmp_path / "edged.lock")
        assert (tmp_path / "edged.lock").read_text() == f"{os.getpid()}\n"
        lock.release()

    def test_is_refused_to_a_second_process_which_learns_who_holds_it(self, tmp_path, other):
        path = tmp_path / "edged.lock"
        holder = other(TAKE, path)
        with pytest.raises(EdgedError) as caught:
            Lock(path)
        assert caught.value.code is Code.ALREADY_RUNNING
        assert str(caught.value) == (
            f"another edged (pid {holder.process.pid}) holds {path}; "
            "stop it first, or give this one a folder of its own with --root"
        )
        assert path.read_text() == f"{holder.process.pid}\n", "the holder's name stands"

    def test_is_refused_twice_in_one_process(self, tmp_path):
        lock = Lock(tmp_path / "edged.lock")
        with pytest.raises(EdgedError, match=f"pid {os.getpid()}"):
            Lock(tmp_path / "edged.lock")
        lock.release()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_is_free_when_its_holder_is_dead(self, tmp_path, other, number):
        path = tmp_path / "edged.lock"
        holder = other(TAKE, path)
        holder.process.send_signal(number)
        holder.process.wait(PATIENCE_S)
        lock = Lock(path)
        assert path.read_text() == f"{os.getpid()}\n"
        lock.release()

    def test_is_free_when_it_was_released(self, tmp_path):
        Lock(tmp_path / "edged.lock").release()
        Lock(tmp_path / "edged.lock").release()

    def test_is_not_handed_on_to_the_holders_children(self, tmp_path, other):
        path = tmp_path / "edged.lock"
        with_child = "import subprocess\nsubprocess.Popen(['cat'], close_fds=False)"
        holder = other(TAKE + with_child, path)
        holder.process.kill()
        holder.process.wait(PATIENCE_S)
        Lock(path).release()

    def test_a_longer_name_in_an_old_file_does_not_show_through(self, tmp_path):
        (tmp_path / "edged.lock").write_text("123456789012345678\n")
        lock = Lock(tmp_path / "edged.lock")
        assert (tmp_path / "edged.lock").read_text() == f"{os.getpid()}\n"
        lock.release()

    def test_can_be_taken_by_nobody_else_who_may_enter_the_folder(self, tmp_path):
        """Whoever can open the file can hold the lock, and so keep the daemon from starting."""
        lock = Lock(tmp_path / "edged.lock")
        assert stat.S_IMODE((tmp_path / "edged.lock").stat().st_mode) == 0o600
        lock.release()

    @pytest.mark.parametrize(
        ("prepare", "reason"),
        [
            pytest.param(lambda path: path.parent.rmdir(), "No such file or directory", id="no folder"),
            pytest.param(lambda path: path.mkdir(), "Is a directory", id="a folder in its place"),
            pytest.param(
                lambda path: path.symlink_to("/etc/passwd"), "Too many levels of symbolic links", id="a link elsewhere"
            ),
        ],
    )
    def test_that_cannot_be_made_is_said_in_words(self, tmp_path, prepare, reason):
        path = tmp_path / "run/edged.lock"
        path.parent.mkdir()
        prepare(path)
        with pytest.raises(EdgedError) as caught:
            Lock(path)
        assert caught.value.code is Code.CANNOT_LISTEN
        assert str(caught.value) == f"{path} cannot be opened: {reason}; check who may write to its folder"


class TestFolders:
    def test_are_made_with_what_is_missing_above_them(self, tmp_path):
        make_folder(tmp_path / "a/b/c", 0o750)
        assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o750

    def test_that_are_there_stay_as_they_are(self, tmp_path):
        (tmp_path / "state").mkdir(mode=0o711)
        make_folder(tmp_path / "state", 0o700)
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o711

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            pytest.param("file", "File exists", id="a file in its place"),
            pytest.param("file/state", "Not a directory", id="a file above it"),
            pytest.param("x" * 300, "File name too long", id="a name that is too long"),
        ],
    )
    def test_that_cannot_be_made_are_said_in_words(self, tmp_path, path, reason):
        (tmp_path / "file").touch()
        with pytest.raises(EdgedError) as caught:
            make_folder(tmp_path / path, 0o700)
        assert caught.value.code is Code.NOT_PERMITTED
        assert str(caught.value) == (
            f"{tmp_path / path} cannot be made: {reason}; "
            "start edged as its service does, or give it a folder of yours with --root"
        )


TAKE_FOLDER = """
from pathlib import Path
from edged.system.folders import FolderLock
lock = FolderLock(Path(sys.argv[1]))
"""


class TestTheLockOnTheStateFolder:
    def test_is_refused_to_a_second_process(self, tmp_path, other):
        other(TAKE_FOLDER, tmp_path)
        with pytest.raises(EdgedError, match=f"another edged keeps its state in {tmp_path}") as caught:
            FolderLock(tmp_path)
        assert caught.value.code is Code.ALREADY_RUNNING

    def test_is_free_when_its_holder_is_dead(self, tmp_path, other):
        holder = other(TAKE_FOLDER, tmp_path)
        holder.process.kill()
        holder.process.wait(PATIENCE_S)
        FolderLock(tmp_path).release()

    def test_writes_nothing(self, tmp_path):
        lock = FolderLock(tmp_path)
        assert list(tmp_path.iterdir()) == []
        lock.release()

    def test_that_cannot_be_taken_is_said_in_words(self, tmp_path):
        with pytest.raises(EdgedError, match="absent cannot be opened: No such file or directory") as caught:
            FolderLock(tmp_path / "absent")
        assert caught.value.code is Code.NOT_PERMITTED


class TestWhoMayEnter:
    @pytest.mark.parametrize("mode", [0o777, 0o755, 0o750, 0o701])
    def test_the_state_folder_is_shut_to_everybody_else(self, tmp_path, mode):
        tmp_path.chmod(mode)
        assert keep_private(tmp_path) == ""
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700

    def test_a_state_folder_that_cannot_be_shut_is_told(self, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise PermissionError(1, "Operation not permitted")

        tmp_path.chmod(0o755)
        monkeypatch.setattr("pathlib.Path.chmod", refuse)
        expected = f"others may enter {tmp_path} (mode 0755): Operation not permitted; chmod 0700 it"
        assert keep_private(tmp_path) == expected

    @pytest.mark.parametrize(("mode", "is_wrong"), [(0o777, True), (0o757, True), (0o2770, False), (0o750, False)])
    def test_a_folder_for_sockets_that_anybody_may_write_to_is_told(self, tmp_path, mode, is_wrong):
        tmp_path.chmod(mode)
        assert bool(open_to_all(tmp_path)) is is_wrong
