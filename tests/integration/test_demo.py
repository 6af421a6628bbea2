"""`make demo` when something is amiss: it says what, and does not claim more than it looked at."""

from __future__ import annotations

import importlib.util
import io
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from rich.console import Console
from support.daemon import Daemon

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """tools/demo.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("demo", REPO / "tools/demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a short path, for sockets."""
    return tmp_path_factory.mktemp("d")


def test_an_edged_that_ends_is_told_at_once(demo: ModuleType, folder: Path):
    log = folder / "edged.log"
    log.write_text("what went wrong\n")
    began = time.monotonic()
    daemon = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with grpc.insecure_channel(f"unix:{folder}/none") as channel, pytest.raises(SystemExit) as ended:
        demo.wait_until_ready(channel, daemon, log)
    assert ended.value.code == "edged did not become ready: it ended with status 3; its log:\nwhat went wrong\n"
    assert time.monotonic() - began < demo.START_S / 2


def test_sockets_and_their_folders_are_seen(demo: ModuleType, folder: Path):
    (folder / "edged/.bind-x").mkdir(parents=True)
    (folder / "edged/edged.lock").touch()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "edged/s"))
    assert demo.left_in(folder) == [str(folder / "edged/.bind-x"), str(folder / "edged/s")]


def test_workers_are_seen(demo: ModuleType, daemon: Daemon):
    pids = [worker.pid for worker in daemon.status().workers]
    assert pids
    found = demo.workers_of(daemon.pid)
    assert {f"worker process {pid}" for pid in pids} < set(found)
    assert len(found) == len(pids) + 1, "and the template that they were forked from"
    assert demo.workers_of(pids[0]) == []


@pytest.mark.parametrize("look", ["left_in", "workers_of"])
def test_what_is_left_behind_fails_the_demo(demo: ModuleType, look: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, look, lambda _: ["something"])
    said = io.StringIO()
    with pytest.raises(SystemExit, match="edged left behind: something; its log:\n"):
        demo.tour(Console(file=said, width=92), folder)
    assert "accuracy" in said.getvalue()
    assert "nothing left behind" not in said.getvalue()
