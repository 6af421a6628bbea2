"""What becomes of the daemon where a part of it has a defect, and what it leaves where its start fails half-way."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.daemon import DIGITS, Daemon
from support.interpreter import hostile_interpreter

from edged._pb.edged.v1 import admin_pb2


@pytest.fixture
def defective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A daemon with digits whose defects are files in its working folder."""
    monkeypatch.chdir(tmp_path)
    interpreter = hostile_interpreter(tmp_path / "interpreter", "defective_site")
    with Daemon(tmp_path / "root", [DIGITS], "log.level = 'info'", interpreter) as daemon:
        yield daemon


def test_a_part_that_ends_by_a_defect_degrades_the_status(defective: Daemon, tmp_path: Path) -> None:
    daemon = defective.start()
    assert daemon.wait_for(lambda status: status.ready).state == admin_pb2.STATE_SERVING
    (tmp_path / "status-defect").touch()
    (worker,) = daemon.status().workers
    psutil.Process(worker.pid).kill()  # so that the status line has news
    status = daemon.wait_for(lambda status: status.state == admin_pb2.STATE_DEGRADED and status.ready)
    assert status.degraded_reasons == ["the status line has ended by a defect of edged; its log says more"]
    assert daemon.stop() == 0
    assert "planted: status-defect" in daemon.log()


def test_a_reload_that_meets_a_defect_comes_to_its_end(defective: Daemon, tmp_path: Path) -> None:
    """The service manager waits for READY=1, and takes a daemon that does not say it for dead."""
    daemon = defective.start()
    (tmp_path / "reload-defect").touch()
    daemon.write_settings("log.level = 'error'")
    daemon.signal(signal.SIGHUP)
    assert daemon.wait_told("READY=1", 2) == "READY=1\nSTATUS=serving, 1 of 1 models ready"
    (told,) = daemon.events("internal")
    assert (told.subject, told.message) == ("settings", "the reload met a defect of edged; its log says more")
    (tmp_path / "reload-defect").unlink()
    daemon.signal(signal.SIGHUP)
    daemon.wait_told("READY=1", 3)
    assert daemon.events()[-1].message == "log.level is now 'error', was 'info'"
    assert daemon.stop() == 0
    assert "planted: reload-defect" in daemon.log()


def test_settings_in_doubt_stay_so_when_a_reload_meets_a_defect(defective: Daemon, tmp_path: Path) -> None:
    assert defective.start().stop() == 0
    defective.told.clear()
    defective.write_settings("log.level = 'loud'")
    daemon = defective.start()
    (reason,) = daemon.status().degraded_reasons
    (tmp_path / "reload-defect").touch()
    daemon.write_settings("log.level = 'error'")
    daemon.signal(signal.SIGHUP)
    daemon.wait_told("READY=1", 2)
    assert daemon.status().degraded_reasons == [reason]
    assert daemon.stop() == 0


def tcp_in_use(root: Path) -> Callable[[], None]:
    """The last address that is listened on is taken: the sockets are bound by then, the models on their way."""
    other = socket.create_server(("127.0.0.1", 0))
    settings = root / "etc/edged/edged.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"listen.tcp = '127.0.0.1:{other.getsockname()[1]}'")
    return other.close


def admin_socket_in_the_way(root: Path) -> Callable[[], None]:
    """A folder stands where the admin socket goes: the other socket is in place and answers by then."""
    place = root / "run/edged-admin/admin.sock"
    (place / "something").mkdir(parents=True)

    def mend() -> None:
        (place / "something").rmdir()
        place.rmdir()

    return mend


def state_locked(root: Path) -> Callable[[], None]:
    """Another one has the state: the folders of the sockets are locked by then."""
    state = root / "var/lib/edged"
    state.mkdir(parents=True)
    descriptor = os.open(state, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return lambda: os.close(descriptor)


@pytest.mark.parametrize(
    ("prepare", "exit_status"), [(tcp_in_use, 71), (admin_socket_in_the_way, 71), (state_locked, 75)]
)
def test_a_start_that_fails_half_way_leaves_nothing(
    prepare: Callable[[Path], Callable[[], None]], exit_status: int, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    mend = prepare(root)
    with Daemon(root, [DIGITS]) as daemon:
        for _ in range(2):
            daemon.start(wait=False)
            pid = daemon.pid
            assert daemon.wait_end() == exit_status, daemon.log()
            daemon.stop()
            left = [process for process in psutil.process_iter(["cmdline"]) if belongs(process, pid)]
            assert not left
            sockets = [path for path in (root / "run").rglob("*") if path.is_socket() or path.name.startswith(".")]
            assert not sockets
        assert "Traceback" not in daemon.log()
        mend()
        daemon.start()
        assert daemon.status().ready
        assert daemon.stop() == 0


def belongs(process: psutil.Process, daemon: int) -> bool:
    """Whether it is a template or a worker of that daemon, whose id is its first argument."""
    arguments = process.info["cmdline"] or []
    return any(each.startswith("edged.worker.") for each in arguments) and str(daemon) in arguments
