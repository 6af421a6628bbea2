"""A container of edged's own, booted once for all tests that share it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import container, long_lived
from support.container import CACHE, Container


@pytest.fixture(scope="session")
def root() -> Iterator[Path]:
    """A root folder with edged in it."""
    folder = CACHE / "root"
    shutil.rmtree(folder, ignore_errors=True)
    container.make_root(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared_daemon(root: Path) -> Iterator[Container]:
    """A booted container; a test leaves it with edged as it was."""
    booted = Container(root)
    long_lived.PROCESSES.add(booted.pid)
    yield booted
    booted.stop()
    long_lived.PROCESSES.discard(booted.pid)


@pytest.fixture
def system(shared_daemon: Container) -> Iterator[Container]:
    """The same, with edged started anew after what a test did to it."""
    shared_daemon.run("systemctl reset-failed edged; systemctl start edged")
    shared_daemon.wait("systemctl is-active edged")
    yield shared_daemon
    shared_daemon.run("rm -rf /etc/edged /etc/systemd/system/edged.service.d; systemctl daemon-reload")
    shared_daemon.run("systemctl restart edged")
