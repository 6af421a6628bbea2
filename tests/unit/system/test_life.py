"""The daemon's life: its phases, its signals, the lock by which there is one of it, the folders it makes."""

import asyncio
import os
import signal
import stat
import subprocess
import sys

import pytest

from edged.changes import Changes
from edged.errors import Code, EdgedError
from edged.system.life import Life, Lock, Phase, make_folder, watch_signals

PATIENCE_S = 60


class Other:
    """Another process, which runs `code` and then says so; it ends when its input does."""

    def __init__(self, code, *arguments):
        script = f"import sys\n{code}\nprint('done', flush=True)\nsys.stdin.read()\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "done\n", self.process.stderr.read()

    def end(self):
        self.process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def other():
    started = []

    def start(*arguments):
        started.append(Other(*arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


TAKE = """
from pathlib import Path
from edged.system.life import Lock
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


class TestPhases:
    def test_follow_each_other_and_whoever_waits_is_told(self):
        changes = Changes()
        life = Life(changes)
        assert life.phase is Phase.STARTING
        for count, phase in enumerate((Phase.RUNNING, Phase.DRAINING), start=1):
            life.enter(phase)
            assert (life.phase, changes.count) == (phase, count)

    def test_what_is_not_as_it_should_be_is_kept_and_whoever_waits_is_told(self):
        changes = Changes()
        life = Life(changes)
        life.degrade("one")
        life.degrade("two")
        assert (life.degraded_reasons, changes.count) == (["one", "two"], 2)

    def test_what_has_recovered_is_forgotten(self):
        changes = Changes()
        life = Life(changes)
        life.degrade("one \udcff")
        life.degrade("two")
        life.recover("one \udcff")
        assert (life.degraded_reasons, changes.count) == (["two"], 3)

    def test_what_names_a_file_that_is_no_text_can_be_told_all_the_same(self):
        life = Life(Changes())
        life.degrade("bundle \udcff is not usable")
        assert life.degraded_reasons == ["bundle ? is not usable"]


class TestSignals:
    @pytest.fixture
    async def watched(self):
        stop, reloads = asyncio.Event(), []
        loop = asyncio.get_running_loop()
        reloaded = asyncio.Event()

        def reload():
            reloads.append(1)
            reloaded.set()

        watch_signals(stop, reload)
        yield stop, reloaded, reloads
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_one_to_stop(self, watched, number):
        stop, _, reloads = watched
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(PATIENCE_S):
            await stop.wait()
        assert not reloads

    async def test_one_to_read_the_settings_again(self, watched):
        stop, reloaded, reloads = watched
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_S):
            await reloaded.wait()
        assert len(reloads) == 1
        assert not stop.is_set()

    @pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_one_to_stop_ends_the_process_at_once(self, other, first, second):
        busy = other(
            """
import asyncio
from edged.system.life import watch_signals

async def main():
    stop = asyncio.Event()
    watch_signals(stop, lambda: None)
    print('watching', flush=True)
    await stop.wait()
    print('stopping', flush=True)
    await asyncio.sleep(3600)

print('done', flush=True)
asyncio.run(main())
"""
        ).process
        assert busy.stdout.readline() == "watching\n"
        busy.send_signal(first)
        assert busy.stdout.readline() == "stopping\n"
        busy.send_signal(second)
        assert busy.wait(PATIENCE_S) == 143
