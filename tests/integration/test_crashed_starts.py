"""A real edged that crashes again and again, or finds nothing but broken settings, under a service manager."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemon import DIGITS, Daemon

from edged.system.starts import LIMIT

SUPERVISED = {"INVOCATION_ID": "0" * 32}


@contextmanager
def started(root: Path, environment: dict[str, str] = SUPERVISED) -> Iterator[Daemon]:
    with Daemon(root) as daemon:
        yield daemon.start(environment=environment)


def crash(root: Path, times: int, environment: dict[str, str] = SUPERVISED) -> None:
    for _ in range(times):
        with started(root, environment) as daemon:
            daemon.signal(signal.SIGKILL)
            daemon.wait_end()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Daemon(tmp_path / "r", [DIGITS])
    return tmp_path / "r"


def test_after_crashes_in_a_row_administrators_still_reach_it(root: Path) -> None:
    crash(root, LIMIT)
    with started(root) as daemon:
        status = daemon.status()
        assert [model.name for model in status.models] == []
        assert list(status.listening) == [f"unix:{daemon.admin_socket}"]
        assert "only administrators are served" in status.degraded_reasons[0]
        assert not daemon.socket.exists()


def test_a_stop_that_was_asked_for_ends_the_row(root: Path) -> None:
    crash(root, LIMIT)
    with started(root) as daemon:
        assert daemon.stop() == 0
    with started(root) as daemon:
        assert daemon.status().models[0].name == "digits"


def test_fewer_crashes_cost_nothing(root: Path) -> None:
    crash(root, LIMIT - 1)
    with started(root) as daemon:
        assert daemon.status().models[0].ready


def test_who_starts_it_by_hand_is_not_kept_from_serving(root: Path) -> None:
    crash(root, LIMIT, {})
    with started(root) as daemon:
        assert daemon.status().models[0].name == "digits"


def test_broken_settings_at_the_first_start_leave_it_reachable_until_they_are_mended(root: Path) -> None:
    Daemon(root).write_settings("[listen\n")
    with started(root) as daemon:
        status = daemon.status()
        assert "the settings are wrong, so only administrators are served" in status.degraded_reasons[0]
        assert not daemon.socket.exists()
        daemon.write_settings("")
        daemon.signal(signal.SIGHUP)
        assert daemon.wait_end() == 0  # its service manager starts it again
    with started(root) as daemon:
        assert daemon.status().models[0].ready
