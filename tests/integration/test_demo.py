"""`make demo` when something is amiss: it says what, and does not claim more than it looked at."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from rich.console import Console
from support.daemon import Daemon
from support.polling import until

from edged.telemetry.messages import State
from tools import make_fragile_digits
from tools.demo import __main__ as demo
from tools.demo import device as devices
from tools.demo import reporting
from tools.demo.asking import Load
from tools.demo.device import Device
from tools.demo.reporting import Broker


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a short path, for sockets."""
    return tmp_path_factory.mktemp("d")


def test_an_edged_that_ends_is_told_at_once(folder: Path):
    log = folder / "edged.log"
    log.write_text("what went wrong\n")
    began = time.monotonic()
    daemon = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with grpc.insecure_channel(f"unix:{folder}/none") as channel, pytest.raises(SystemExit) as ended:
        devices.wait_until_ready(channel, daemon, log)
    assert ended.value.code == "edged did not become ready: it ended with status 3; its log:\nwhat went wrong\n"
    assert time.monotonic() - began < devices.START_S / 2


def test_sockets_and_their_folders_are_seen(folder: Path):
    (folder / "edged/.bind-x").mkdir(parents=True)
    (folder / "edged/edged.lock").touch()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "edged/s"))
    assert devices.left_in(folder) == [str(folder / "edged/.bind-x"), str(folder / "edged/s")]


def test_workers_are_seen(daemon: Daemon):
    pids = [worker.pid for worker in daemon.status().workers]
    assert pids
    found = devices.workers_of(daemon.pid)
    assert {f"worker process {pid}" for pid in pids} < set(found)
    assert len(found) == len(pids) + 1, "and the template that they were forked from"
    assert devices.workers_of(pids[0]) == []


@pytest.mark.parametrize("look", ["left_in", "workers_of"])
def test_what_is_left_behind_fails_the_demo(look: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, look, lambda _: ["something"])
    device, said = Device(folder), io.StringIO()
    device.start()
    with pytest.raises(SystemExit, match="edged left behind: something; its log:\n"):
        demo.stopped(Console(file=said), device, device.end())
    assert not said.getvalue()


def test_a_request_that_fails_fails_the_demo(folder: Path):
    device = Device(folder)
    device.start()
    load = Load(device)
    with load:
        device.cut_power()
        until(lambda: load.failed, "a request has failed")
    device.end()
    with pytest.raises(SystemExit, match="requests failed"):
        load.told()


@pytest.mark.parametrize(("mode", "settled"), [("starting", False), ("serving", True), ("degraded", True)])
def test_how_a_device_stands_is_shown_once_it_has_started(folder: Path, mode: str, settled: bool):
    broker = Broker(folder / "broker")
    assert not broker.settled(), "nothing is told yet"
    broker.state = State(device="till-7", fleet="", hardware_class="generic", version="1", mode=mode)
    assert broker.settled() is settled
    broker.end()


def test_without_mosquitto_the_operators_part_is_left_out_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    broker, said = Broker(folder / "broker"), io.StringIO()
    reporting.watch(Console(file=said, width=200), Device(folder), broker)
    broker.end()
    assert "left out: it needs mosquitto, or another broker that speaks MQTT v5" in said.getvalue()


def test_the_fragile_bundle_is_what_its_script_makes(tmp_path: Path):
    made = make_fragile_digits.write(tmp_path)
    kept = make_fragile_digits.REPO / make_fragile_digits.FOLDER
    names = sorted(path.name for path in kept.iterdir())
    assert names == sorted(path.name for path in made.iterdir())
    for name in names:
        assert (made / name).read_bytes() == (kept / name).read_bytes(), name
