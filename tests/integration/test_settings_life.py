"""Where a real edged, and edgectl beside it, take their settings from when the files are wrong, odd, or others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.daemon import PATIENCE_S, Daemon

from edged import __version__
from edged.config import last_good

BROKEN = "nonsense = 1\n"
ELSEWHERE = "[listen]\nsocket = '/srv/p/s'\nadmin_socket = '/srv/a/s'\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "r"


Start = Callable[..., Daemon]


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Starts an edged on `root`, after the end of the one before; it ends with the test."""
    with ExitStack() as stack:

        def start(*arguments: object) -> Daemon:
            stack.close()
            return stack.enter_context(Daemon(root)).start(*map(str, arguments))

        yield start


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A settings file that edged is not to find by itself."""
    return tmp_path / "mine.toml"


def write(root: Path, text: str) -> None:
    """The device's own settings file."""
    Daemon(root).write_settings(text)


def run(module: str, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stdout, done.stderr


def edgectl(*arguments: object) -> tuple[int, str, str]:
    return run("edged.ctl.main", *arguments)


def hardware_class(root: Path, *arguments: object) -> str:
    """What the settings say that the running edged is on."""
    found: str = json.loads(edgectl("--root", root, *arguments, "status", "--json")[1])["hardware_class"]
    return found


class TestFilesThatAreNamed:
    """With --config, for a try or for good."""

    def test_are_not_what_the_next_plain_start_runs_on(self, root: Path, start: Start, mine: Path):
        mine.write_text("device.hardware_class = 'tried'\n")
        start("--config", mine).stop()
        write(root, BROKEN)
        status, _, said = run("edged", "--root", root)
        assert status == 78
        assert "nonsense: is no key known here" in said

    def test_leave_the_last_good_ones_of_plain_starts_alone(self, root: Path, start: Start, mine: Path):
        write(root, "device.hardware_class = 'own'\n")
        start().stop()
        mine.write_text("device.hardware_class = 'tried'\n")
        start("--config", mine).stop()
        write(root, BROKEN)
        mine.write_text(BROKEN)
        start()
        assert hardware_class(root) == "own"
        start("--config", mine)
        assert hardware_class(root, "--config", mine) == "tried"

    def test_each_list_of_them_has_its_own(self, root: Path, start: Start, mine: Path, tmp_path: Path):
        mine.write_text("device.hardware_class = 'tried'\n")
        start("--config", mine).stop()
        mine.write_text(BROKEN)
        another = tmp_path / "another.toml"
        another.touch()
        status, _, said = run("edged", "--root", root, "--config", another, "--config", mine)
        assert (status, said.count("\n")) == (78, 1)


class TestEdgectlFinds:
    def test_a_daemon_on_the_last_good_settings(self, root: Path, start: Start):
        write(root, ELSEWHERE)
        start().stop()
        write(root, BROKEN)
        start()
        status, told, warned = edgectl("--root", root, "status")
        assert status == 0
        assert told.startswith("degraded, no models: the settings are wrong, so the last good ones hold: ")
        assert f"unix:{root}/srv/a/s" in told
        assert warned.startswith("edgectl: warning: the settings cannot be used, so the last good ones are: ")
        assert edgectl("--root", root, "version")[1].endswith(f"edged    {__version__}\n")

    def test_a_daemon_whose_files_are_named(self, root: Path, start: Start, mine: Path):
        mine.write_text(ELSEWHERE)
        start("--config", mine)
        status, _, said = edgectl("--root", root, "status")
        assert status == 3
        assert said.startswith("edgectl: edged is not running, or it listens elsewhere: ")
        assert said.endswith(", or say with --config how it was started\n")
        status, told, said = edgectl("--root", root, "--config", mine, "status")
        assert (status, said) == (0, "")
        assert f"unix:{root}/srv/a/s" in told
        mine.write_text(BROKEN)
        status, told, said = edgectl("--root", root, "status", "--config", mine)
        assert status == 0
        assert "so the last good ones are: " in said


class TestAPipe:
    def test_is_refused_at_the_start(self, root: Path, mine: Path):
        os.mkfifo(mine)
        status, _, said = run("edged", "--root", root, "--config", mine)
        assert status == 78
        assert f"{mine}: is a pipe, not a regular file; put a file there; " in said

    def test_of_a_shell_is_refused_too(self, root: Path):
        words = [sys.executable, "-m", "edged", "--root", root]
        done = subprocess.run(
            ["bash", "-c", '"$@" --config <(echo log.level = 1)', "bash", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 78
        assert "settings are read again on a reload, so `<(…)` of a shell will not do" in done.stderr

    def test_in_the_place_of_a_file_is_not_waited_for(self, start: Start, mine: Path):
        mine.touch()
        daemon = start("--config", mine)
        mine.unlink()
        os.mkfifo(mine)
        daemon.signal(signal.SIGHUP)
        daemon.wait_told("READY=1", 2)
        assert daemon.stop() == 0
        assert "nothing was changed; the settings are wrong" in daemon.log()
        assert f"{mine}: is a pipe" in daemon.log()


class TestPathsThatAreNotUtf8:
    """Neither the log nor any answer could tell of them."""

    def test_are_refused_by_edged(self, tmp_path: Path):
        bad = tmp_path / "caf\udce9"
        said = rf"edged: the path {tmp_path}/caf\xe9 is not UTF-8; give it a name in UTF-8, or use a link that has one"
        for arguments in (["--root", bad], ["--root", tmp_path, "--config", bad], ["--root", bad, "--check-config"]):
            assert run("edged", *arguments) == (78, "", said + "\n")
        assert list(tmp_path.iterdir()) == []

    def test_are_refused_by_edgectl(self, tmp_path: Path):
        status, _, said = edgectl("--root", tmp_path / "caf\udce9", "status")
        assert status == 2
        assert rf"'--root': the path {tmp_path}/caf\xe9 is not UTF-8; " in said

    def test_can_be_reached_by_a_link(self, root: Path, start: Start, tmp_path: Path):
        (tmp_path / "caf\udce9").mkdir()
        root.symlink_to("caf\udce9")
        start()
        assert edgectl("--root", root, "status")[0] == 0

    def test_among_the_fragments_are_wrong_settings(self, root: Path, start: Start):
        start().stop()
        write(root, "")
        (root / "etc/edged/edged.toml.d").mkdir()
        (root / "etc/edged/edged.toml.d/caf\udce9.toml").touch()
        start()
        told = edgectl("--root", root, "status")[1]
        assert r"/etc/edged/edged.toml.d/caf\xe9.toml: has a name that is not UTF-8; rename it" in told


def test_last_good_settings_that_others_can_have_written_are_not_believed(root: Path, start: Start):
    start().stop()
    last_good.place(root).chmod(0o666)
    write(root, BROKEN)
    assert run("edged", "--root", root)[0] == 78
