"""What an update waits for and goes by on a device: pressure, waves, the image's own time; and what may be loaded."""

from __future__ import annotations

import os
import random
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import onnx
import psutil
import pytest
from sim import sysfs
from support.bundles import onnx_model
from support.daemon import Daemon
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.polling import until
from support.updating import MODEL, QUICK, Updating, scale, scale_bundle

from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb
from edged.update.plan import Rollout, Wave

HOT_C, COOL_C = 85.5, 51.0
PRESSED = "the device is under pressure"


@pytest.fixture
def pi(tmp_path) -> sysfs.Sysfs:
    return sysfs.raspberry_pi(tmp_path / "root")


def device(tmp_path: Path, fleet: Fleet, extra: str = "") -> Daemon:
    """A daemon that serves revision 1, and looks at its sensors often; `extra` begins in the table of updates."""
    root, python = tmp_path / "root", hostile_interpreter(tmp_path / "python", "watchful_site")
    return Daemon(root, [scale_bundle(tmp_path / "factory", 1)], fleet.trusted_by(root) + extra, python)


def large_model() -> bytes:
    """One that loads, with some 300 KiB in it that do not shrink."""
    tensors = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
    nodes = [onnx.helper.make_node("Add", ["x", "x"], ["y"])]
    model = onnx.load_from_string(onnx_model(nodes, *tensors))
    model.doc_string = random.Random(5).randbytes(300 * 1024).hex()
    return model.SerializeToString()


def fetchers(daemon: Daemon) -> list[psutil.Process]:
    children = psutil.Process(daemon.pid).children()
    return [each for each in children if "edged.update.fetch" in each.cmdline()]


def test_a_download_rests_under_pressure_and_goes_on_where_it_was(tmp_path, fleet, pi):
    with device(tmp_path, fleet, "rate_kib = 40\n[pressure]\ndwell_s = 1\n").start() as daemon:
        updating = Updating(daemon)
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, model=large_model()))
        fleet.plan(MODEL, 2)
        updating.look()
        updating.wait(lambda model: model.phase == "fetching" and model.done_bytes > 0)
        pi.set_temperature(0, HOT_C)
        waits = updating.wait(lambda model: model.deferred == PRESSED)
        assert (waits.phase, fetchers(daemon)) == ("fetching", [])
        assert updating.answers()[1] == 1
        pi.set_temperature(0, COOL_C)
        updating.wait_idle_at(2)
        events = [step.event for step in updating.history()]
        assert events.index("deferred") < events.index("resumed") < events.index("fetched")
        (fetched,) = [step for step in updating.history() if step.event == "fetched"]
        assert fetched.evidence["kept"] > 0


def test_nothing_begins_under_pressure_and_a_comparison_waits(tmp_path, fleet, pi):
    extra = "[acceptance]\nshadow = { samples = 20, agreement = 0.9 }\nsoak = { min_requests = 0, max_s = 0.2 }\n"
    with device(tmp_path, fleet, "shadow_max_s = 600\n[pressure]\ndwell_s = 1\n").start() as daemon:
        updating = Updating(daemon)
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, extra=extra))
        fleet.plan(MODEL, 2)
        updating.look()
        updating.wait(lambda model: model.phase == "shadow")
        pi.set_temperature(0, HOT_C)
        assert updating.wait(lambda model: model.deferred == PRESSED).phase == "shadow"
        for _ in range(30):
            assert updating.answers()[1] == 1
        assert updating.model().phase == "shadow"
        pi.set_temperature(0, COOL_C)
        updating.wait(lambda model: model.phase == "shadow" and not model.deferred)
        until(
            lambda: daemon.infer(scale(1.0, 2.0)) and updating.model().phase,
            "the comparison is over",
            holds=lambda phase: phase != "shadow",
            log=daemon.log,
            again_s=0,
        )
        updating.wait_idle_at(2)
        (compared,) = [step for step in updating.history() if step.before == "shadow" and step.after == "soaking"]
        assert compared.evidence["samples"] == 20

        pi.set_temperature(0, HOT_C)
        daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_CRITICAL)
        fleet.publish(scale_bundle(tmp_path / "bundles", 3))
        fleet.plan(MODEL, 3)
        assert updating.look().models[0].target == 3
        waits = updating.wait(lambda model: model.deferred == PRESSED)
        assert (waits.phase, fetchers(daemon)) == ("fetching", [])
        pi.set_temperature(0, COOL_C)
        updating.wait_idle_at(3)


def test_a_wave_has_its_devices_watch_as_long_as_it_asks_over_a_restart_too(tmp_path, fleet):
    with device(tmp_path, fleet).start() as daemon:
        updating = Updating(daemon)
        fleet.publish(scale_bundle(tmp_path / "bundles", 2))
        wave = Wave(percent=100, min_soak_s=3600)
        fleet.plan(MODEL, 1, rollout=Rollout(id="r-2", revision=2, waves=(wave,)))
        updating.look()
        updating.wait(lambda model: model.phase == "soaking")
        shutil.move(fleet.repository, tmp_path / "away")  # what is known of the plan is what was kept
        daemon.stop()
        daemon.told.clear()
        daemon.start()
        updating.wait(lambda model: model.phase == "soaking")
        assert updating.answers()[1] == 2
        ends = datetime.now(UTC) + timedelta(seconds=2)  # QUICK would have ended after half a second
        while datetime.now(UTC) < ends:
            assert updating.answers()[1] == 2
            assert updating.model().phase == "soaking"


def test_the_time_that_the_image_was_built_is_no_later_than_now(tmp_path, fleet):
    made = tmp_path / "root/usr/lib/edged/built"
    made.parent.mkdir(parents=True)
    made.write_text((datetime.now(UTC) + timedelta(days=4000)).isoformat() + "\n")
    with device(tmp_path, fleet).start() as daemon:
        with pytest.raises(grpc.RpcError, match="expired"):
            Updating(daemon).look()
        assert Updating(daemon).answers()[1] == 1


def test_what_cannot_run_here_is_not_fetched(tmp_path, fleet):
    extra = 'requires = { accelerator = "edgetpu" }\n' + QUICK
    with device(tmp_path, fleet).start() as daemon:
        updating = Updating(daemon)
        updating.wait_looked()
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, extra=extra))
        fleet.plan(MODEL, 2)
        checked = updating.look(check_only=True)
        assert "it cannot serve here: no variant can run here: cpu: needs the accelerator" in checked.models[0].decision
        shutil.rmtree(fleet.repository / "chunks")
        updating.look()
        updating.wait(lambda model: model.phase == "idle" and updating.last_reason() != "")
        assert updating.last_reason() == "incompatible_hardware"
        until(lambda: updating.model().decision, "it is put off", holds=lambda why: "with the next start" in why)


def load(daemon: Daemon, revision: int) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=MODEL)
    request.parameters["revision"].int64_param = revision
    reply = pb.RepositoryModelLoadResponse
    daemon.call("inference.GRPCInferenceService/RepositoryModelLoad", request, reply, admin=True)


def test_an_installed_revision_that_served_may_be_loaded_and_one_that_was_collected_may_not(tmp_path, fleet):
    with device(tmp_path, fleet).start() as daemon:
        updating = Updating(daemon)
        for revision in (2, 3, 4):
            fleet.publish(scale_bundle(tmp_path / "bundles", revision, factor=float(revision)))
            fleet.plan(MODEL, revision)
            updating.look()
            updating.wait_idle_at(revision)
        load(daemon, 3)
        assert updating.answers() == ([3.0, 6.0], 3)
        with pytest.raises(grpc.RpcError, match="has no revision 2 on this device"):
            load(daemon, 2)
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait_end()
        daemon.stop()
        daemon.told.clear()
        daemon.start()
        assert updating.answers() == ([4.0, 8.0], 4)
        load(daemon, 3)
        assert updating.answers() == ([3.0, 6.0], 3)
