"""Files appear whole or not at all, whatever fails and whenever the process or the power ends."""

import errno
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edged import durable

OLD, NEW = b"old " * 1000, b"new " * 5000


@pytest.fixture
def path(tmp_path):
    """A file that is there before."""
    path = tmp_path / "settings.json"
    path.write_bytes(OLD)
    return path


def names(folder):
    return sorted(each.name for each in Path(folder).iterdir())


def alone(path):
    """Whether nothing lies beside it."""
    return names(path.parent) == [path.name]


class TestWriting:
    def test_makes_a_file(self, tmp_path):
        durable.write(tmp_path / "new", NEW)
        assert (tmp_path / "new").read_bytes() == NEW
        assert alone(tmp_path / "new")

    def test_replaces_one(self, path):
        durable.write(path, NEW)
        assert path.read_bytes() == NEW
        assert alone(path)

    def test_an_empty_file_too(self, path):
        durable.write(path, b"")
        assert path.read_bytes() == b""

    @pytest.mark.parametrize(("options", "mode"), [({}, 0o600), ({"mode": 0o644}, 0o644), ({"mode": 0o400}, 0o400)])
    def test_with_its_own_mode_and_not_that_of_what_was_there(self, path, options, mode):
        path.chmod(0o640)
        durable.write(path, NEW, **options)
        assert stat.S_IMODE(path.stat().st_mode) == mode

    def test_a_link_is_replaced_not_followed(self, path):
        link = path.with_name("link")
        link.symlink_to(path.name)
        durable.write(link, NEW)
        assert path.read_bytes() == OLD
        assert not link.is_symlink()

    def test_many_at_once_leave_one_of_them_whole(self, path):
        contents = [bytes([number]) * 50_000 for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda content: durable.write(path, content), contents))
        assert path.read_bytes() in contents
        assert alone(path)

    def test_leaves_no_descriptor_open(self, path):
        before = names("/proc/self/fd")
        durable.write(path, NEW)
        assert names("/proc/self/fd") == before


class TestAPowerCut:
    """What the kernel had been told to keep, and in which order."""

    @pytest.fixture
    def steps(self, path, monkeypatch):
        steps = []
        fsync, replace = os.fsync, os.replace

        def record_fsync(descriptor):
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                assert found.st_ino == path.parent.stat().st_ino
                steps.append("the folder is kept")
            else:
                assert found.st_size == len(NEW), "all of it is there"
                steps.append("the file is kept")
            fsync(descriptor)

        def record_replace(source, target, **options):
            assert Path(target) == path
            steps.append("the name is changed")
            replace(source, target, **options)

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(os, "replace", record_replace)
        return steps

    def test_finds_the_content_kept_before_the_name_and_the_name_before_the_end(self, path, steps):
        durable.write(path, NEW)
        assert steps == ["the file is kept", "the name is changed", "the folder is kept"]

    def test_finds_a_placed_files_name_kept(self, path, steps):
        made = path.with_name("made")
        made.write_bytes(NEW)
        durable.place(made, path)
        assert steps == ["the name is changed", "the folder is kept"]
        assert path.read_bytes() == NEW

    def test_finds_a_removed_files_name_gone(self, path, steps):
        path.unlink()
        durable.sync_folder(path.parent)
        assert steps == ["the folder is kept"]


# Runs durable.write and is killed before its n-th line; the exit status says whether it got to the end.
KILLED = """
import os, signal, sys
from pathlib import Path
from edged import durable

path, fatal, lines = Path(sys.argv[1]), int(sys.argv[2]), 0

def trace(frame, event, _):
    global lines
    if frame.f_code.co_filename != durable.__file__:
        return None
    if event == "line":
        lines += 1
        if lines == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

sys.settrace(trace)
durable.write(path, b"new " * 5000)
"""


def test_a_process_that_is_killed_at_any_line_leaves_the_old_or_the_new(path):
    outcomes = []
    for fatal in range(1, 100):
        path.write_bytes(OLD)
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(fatal)])
        content = path.read_bytes()
        assert content in (OLD, NEW)
        assert all(name == path.name or name.startswith(f".{path.name}.") for name in names(path.parent))
        outcomes.append(content)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert outcomes[0] == OLD
    assert outcomes[-1] == NEW
    assert outcomes == sorted(outcomes, key=[OLD, NEW].index), "once it is new it stays so"
    assert len(outcomes) > 8, "it was killed at many lines"
    durable.write(path, OLD)
    assert path.read_bytes() == OLD, "what a dead one left is in nobody's way"


class TestAFailure:
    """Leaves what was there, and nothing beside it."""

    def fail_at(self, monkeypatch, name, call, error=errno.EIO):
        real, calls = getattr(os, name), []

        def fail(*arguments, **options):
            calls.append(arguments)
            if len(calls) == call:
                raise OSError(error, os.strerror(error))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, fail)

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            pytest.param("open", 1, id="no file can be made"),
            pytest.param("fsync", 1, id="the content cannot be kept"),
            pytest.param("replace", 1, id="the name cannot be changed"),
        ],
    )
    def test_before_the_name_is_changed(self, path, monkeypatch, name, call):
        self.fail_at(monkeypatch, name, call)
        with pytest.raises(OSError, match="Input/output error"):
            durable.write(path, NEW)
        monkeypatch.undo()
        assert path.read_bytes() == OLD
        assert alone(path)

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            pytest.param("open", 2, id="the folder cannot be opened"),
            pytest.param("fsync", 2, id="the folder cannot be kept"),
        ],
    )
    def test_after_it_is_told_since_the_new_name_may_not_last(self, path, monkeypatch, name, call):
        self.fail_at(monkeypatch, name, call)
        with pytest.raises(OSError, match="Input/output error"):
            durable.write(path, NEW)
        monkeypatch.undo()
        assert path.read_bytes() in (OLD, NEW)
        assert alone(path)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
    def test_of_any_other_kind(self, path, monkeypatch, error):
        def fail(_):
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(error):
            durable.write(path, NEW)
        monkeypatch.undo()
        assert path.read_bytes() == OLD
        assert alone(path)

    def test_leaves_no_descriptor_open(self, path, monkeypatch):
        before = names("/proc/self/fd")
        self.fail_at(monkeypatch, "fsync", 1)
        with pytest.raises(OSError, match="Input/output error"):
            durable.write(path, NEW)
        monkeypatch.undo()
        assert names("/proc/self/fd") == before

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("gone/settings.json", errno.ENOENT),
            ("file/settings.json", errno.ENOTDIR),
            ("folder", errno.EISDIR),
            ("x" * 255, errno.ENAMETOOLONG),
        ],
    )
    def test_because_of_where_it_is_to_go(self, tmp_path, name, error):
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError, match=os.strerror(error)):
            durable.write(tmp_path / name, NEW)
        assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that is full")
class TestARealFileSystem:
    @pytest.fixture
    def mounted(self, tmp_path):
        folder = tmp_path / "small"
        folder.mkdir()

        def mount(options):
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "edged-test", folder], check=True)
            return folder

        yield mount
        while os.path.ismount(folder):
            subprocess.run(["umount", "--lazy", folder], check=True)

    def test_that_is_full_keeps_what_was_there(self, mounted):
        path = mounted("size=64k") / "settings.json"
        durable.write(path, OLD)
        with pytest.raises(OSError, match="No space left on device"):
            durable.write(path, b"x" * 256 * 1024)
        assert path.read_bytes() == OLD
        assert alone(path)

    def test_that_has_room_for_no_more_files_keeps_what_was_there(self, mounted):
        path = mounted("nr_inodes=2") / "settings.json"
        path.write_bytes(OLD)
        with pytest.raises(OSError, match="No space left on device"):
            durable.write(path, NEW)
        assert path.read_bytes() == OLD
        assert alone(path)

    def test_that_can_only_be_read_keeps_what_was_there(self, mounted):
        folder = mounted("size=64k")
        path = folder / "settings.json"
        durable.write(path, OLD)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with pytest.raises(OSError, match="Read-only file system"):
            durable.write(path, NEW)
        assert path.read_bytes() == OLD
        assert alone(path)
