"""A hot device: what its callers and its engineer are told, and how it comes back. The heat is files below the root."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sim import sysfs
from support import bundles
from support.calls import ELEMENTS, identity, pack, request, tensor
from support.daemon import Daemon

from edged._pb.edged.v1 import admin_pb2
from edged.pressure.trace import replay


@pytest.fixture
def identity_bundle(tmp_path: Path) -> Path:
    return bundles.identity_bundle(tmp_path, "FP32")


SETTINGS = """
[pressure]
dwell_s = 1
trace_mib = 1
"""


def answered_at(daemon: Daemon) -> str:
    """The level that an answer tells."""
    asked = request(identity("FP32"), tensor("x", "FP32", [2, 2]), raw=[pack("FP32", ELEMENTS["FP32"])])
    return daemon.infer(asked).parameters["edged_level"].string_param


def test_a_device_that_becomes_hot_and_cool_again(tmp_path: Path, identity_bundle: Path):
    tree = sysfs.raspberry_pi(tmp_path / "root")
    with Daemon(tree.root, [identity_bundle], SETTINGS).start() as daemon:
        assert daemon.status().level == admin_pb2.LEVEL_NOMINAL
        assert answered_at(daemon) == "nominal"
        tree.set_temperature(0, 85.5)
        hot = daemon.wait_for(lambda status: status.level > admin_pb2.LEVEL_NOMINAL)
        assert hot.ready, "it serves all the same"
        assert answered_at(daemon) != "nominal"
        (event, *_) = daemon.events("pressure_level")
        assert event.subject == "thermal"
        assert "thermal_zone0:cpu-thermal 85.5 °C" in event.details["inputs"]
        tree.set_temperature(0, 51.0)
        daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_NOMINAL)
        assert answered_at(daemon) == "nominal"
    (trace,) = (tree.root / "var/lib/edged").glob("pressure-*.trace")
    found = list(replay(trace))
    assert found
    assert all(each.same for each in found)


def test_settings_hold_after_a_reload(tmp_path: Path, identity_bundle: Path):
    tree = sysfs.raspberry_pi(tmp_path / "root")
    tree.set_temperature(0, 70.0)
    with Daemon(tree.root, [identity_bundle], SETTINGS).start() as daemon:
        assert daemon.status().level == admin_pb2.LEVEL_NOMINAL
        daemon.write_settings(SETTINGS + "margin_c = 30\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda status: status.level > admin_pb2.LEVEL_NOMINAL)


def test_what_systemd_names_wakes_it(tmp_path: Path, identity_bundle: Path):
    root = tmp_path / "root"
    root.mkdir()
    os.mkfifo(root / "watch")
    environment = {"MEMORY_PRESSURE_WATCH": "/watch"}
    with Daemon(root, [identity_bundle], SETTINGS).start(environment=environment) as daemon:
        descriptor = os.open(root / "watch", os.O_RDWR)
        try:
            os.write(descriptor, b"pressure")
            daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_ELEVATED)
        finally:
            os.close(descriptor)
