"""Updates, from a published bundle to a route that flipped, by a real daemon from a real repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.daemon import PATIENCE_S, Daemon
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.polling import until
from support.updating import QUICK, Updating, picky_model, scale, scale_bundle

from edged._pb.edged.v1 import update_pb2 as up
from edged._pb.inference import grpc_service_pb2 as pb

SOAK = "[acceptance]\nshadow = { samples = 0 }\nsoak = { min_requests = 50, max_s = 60 }\n"
SHADOW = "[acceptance]\nshadow = { samples = 20, agreement = 0.9 }\nsoak = { min_requests = 0, max_s = 0.2 }\n"


@pytest.fixture
def device(tmp_path, fleet) -> Iterator[Daemon]:
    """A daemon whose image brought revision 1, with engines that misbehave on demand."""
    root = tmp_path / "root"
    first = scale_bundle(tmp_path / "factory", 1, factor=2.0)
    settings = (
        fleet.trusted_by(root) + "shadow_max_s = 120\n[workers]\nload_s = 5\nfirst_inference_s = 2\ninference_s = 2\n"
    )
    with Daemon(root, [first], settings, hostile_interpreter(tmp_path / "python")) as daemon:
        yield daemon.start()


@pytest.fixture
def updating(device) -> Updating:
    return Updating(device)


def phases(updating: Updating) -> list[str]:
    return [step.after for step in updating.history()]


@contextmanager
def traffic(daemon: Daemon, *values: float) -> Iterator[list[object]]:
    """Requests one after the other until the block ends; gives what became of each."""
    found: list[object] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                found.append(int(daemon.infer(scale(*values)).model_version))
            except grpc.RpcError as error:
                found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def restart(device: Daemon) -> None:
    """Starts it again, stopped first where it still runs."""
    device.stop()
    device.told.clear()
    device.start()


def failures(found: list[object]) -> list[object]:
    return [each for each in found if isinstance(each, grpc.RpcError)]


def test_a_published_revision_is_fetched_tried_and_served(tmp_path, fleet, updating):
    assert updating.answers() == ([2.0, 4.0], 1)
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=3.0))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait_idle_at(2)
    assert updating.answers() == ([3.0, 6.0], 2)
    assert phases(updating) == ["fetching", "staged", "trial", "shadow", "soaking", "committed", "idle"]


def test_for_a_look_alone_the_fetcher_has_a_folder_of_its_own(tmp_path, fleet, device, updating):
    """It writes to the folder above the one that is named too, so nothing else may lie there."""
    updating.wait_looked()
    fleet.publish(scale_bundle(tmp_path / "bundles", 2))
    fleet.plan("scale", 2)
    updating.look(check_only=True)
    state = device.root / "var/lib/edged"
    (found,) = state.rglob("manifest.json")
    assert [path.name for path in found.parents[1].iterdir()] == [found.parent.name]
    assert found.parents[2] == state / "update"


@pytest.mark.parametrize("times", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_no_request_fails_while_the_route_flips_there_and_back(tmp_path, fleet, device, updating, times):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2))
    fleet.plan("scale", 2)
    with traffic(device, 1.0, 2.0) as found:
        updating.look()
        updating.wait_idle_at(2)
        for _ in range(times):
            updating.call("RollBack", up.RollBackRequest(model="scale", revision=1), up.RollBackResponse)
            updating.wait_idle_at(1)
            updating.call("Unpin", up.UnpinRequest(model="scale"), up.UnpinResponse)
            updating.wait_idle_at(2)
    assert not failures(found)
    assert sorted(set(found)) == [1, 2]


def test_what_served_before_is_named_until_its_worker_ends(tmp_path, fleet, device, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, extra=SOAK))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait(lambda model: model.phase == "soaking")
    assert device.infer(scale(1.0, 2.0, version="1")).model_version == "1"
    with traffic(device, 1.0, 2.0):
        updating.wait_idle_at(2)
    with pytest.raises(grpc.RpcError) as raised:
        device.infer(scale(1.0, 2.0, version="1"))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


class TestARevisionThatIsNotFit:
    """Each reason reached by a real bundle; the device is as before, and does not take it again."""

    def refused(self, fleet: Fleet, updating: Updating, bundle: Path, reason: str, phase: str) -> up.Transition:
        fleet.publish(bundle)
        fleet.plan("scale", 2)
        updating.look()
        updating.wait(lambda model: model.phase == "idle" and updating.last_reason() != "")
        step = next(each for each in reversed(updating.history()) if each.reason)
        assert (step.reason, step.before) == (reason, phase), step
        assert updating.answers() == ([2.0, 4.0], 1)
        return step

    def not_again(self, updating: Updating) -> None:
        count = len(updating.history())
        status = updating.look()
        assert "quarantined" in status.models[0].decision
        assert len(updating.history()) == count

    def test_golden_mismatch(self, tmp_path, fleet, updating):
        bundle = scale_bundle(tmp_path / "bundles", 2, factor=3.0, golden_factor=3.5)
        step = self.refused(fleet, updating, bundle, "golden_mismatch", "trial")
        assert "golden.npz" in step.text
        self.not_again(updating)

    def test_load_failed(self, tmp_path, fleet, updating):
        bundle = scale_bundle(tmp_path / "bundles", 2, model=b"\xff" * 100)
        self.refused(fleet, updating, bundle, "load_failed", "trial")
        self.not_again(updating)

    def test_incompatible_signature(self, tmp_path, fleet, updating):
        bundle = scale_bundle(tmp_path / "bundles", 2, columns=3)
        step = self.refused(fleet, updating, bundle, "incompatible_signature", "fetching")
        assert "'x' takes [-1, 3], took [-1, 2]" in step.text
        self.not_again(updating)

    def test_incompatible_hardware(self, tmp_path, fleet, updating):
        extra = 'requires = { accelerator = "edgetpu" }\n' + QUICK
        bundle = scale_bundle(tmp_path / "bundles", 2, extra=extra)
        self.refused(fleet, updating, bundle, "incompatible_hardware", "fetching")
        until(lambda: updating.model().decision, "it is put off", holds=lambda why: "with the next start" in why)

    def test_incompatible_runtime(self, tmp_path, fleet, updating):
        extra = 'requires = { runtime = ">=99" }\n' + QUICK
        bundle = scale_bundle(tmp_path / "bundles", 2, extra=extra)
        self.refused(fleet, updating, bundle, "incompatible_runtime", "fetching")
        self.not_again(updating)

    def test_latency_budget(self, tmp_path, fleet, updating):
        extra = QUICK + "budgets = { p99_ms = 0.0001 }\n"
        bundle = scale_bundle(tmp_path / "bundles", 2, extra=extra)
        self.refused(fleet, updating, bundle, "latency_budget", "trial")
        self.not_again(updating)

    def test_memory_budget(self, tmp_path, fleet, updating):
        extra = QUICK + "budgets = { memory_mib = 1 }\n"
        bundle = scale_bundle(tmp_path / "bundles", 2, extra=extra)
        self.refused(fleet, updating, bundle, "memory_budget", "trial")
        self.not_again(updating)

    def test_shadow_disagreement(self, tmp_path, fleet, device, updating):
        bundle = scale_bundle(tmp_path / "bundles", 2, factor=-2.0, extra=SHADOW)
        with traffic(device, 1.0, 2.0) as found:
            self.refused(fleet, updating, bundle, "shadow_disagreement", "shadow")
        assert not failures(found)
        self.not_again(updating)


def test_a_comparison_that_agrees_says_on_how_many_requests(tmp_path, fleet, device, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=2.0, extra=SHADOW))
    fleet.plan("scale", 2)
    with traffic(device, 1.0, 2.0):
        updating.look()
        updating.wait_idle_at(2)
    (step,) = [step for step in updating.history() if step.before == "shadow"]
    assert (step.event, step.evidence["samples"], step.evidence["agreement"]) == ("passed", 20, 1)


def test_who_asks_for_classes_is_compared_with_nothing(tmp_path, fleet, device, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=2.0, extra=SHADOW))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait(lambda model: model.phase == "shadow")
    classes = scale(1.0, 2.0)
    classes.outputs.add(name="y").parameters["classification"].int64_param = 1
    for _ in range(20):
        assert device.infer(classes).outputs[0].datatype == "BYTES"
    with traffic(device, 1.0, 2.0):
        assert updating.wait(lambda model: model.phase == "idle").serving == 2
    (step,) = [step for step in updating.history() if step.before == "shadow"]
    assert (step.evidence["samples"], step.evidence["failed"]) == (20, 0)


def test_made_up_requests_are_compared_with_nothing(tmp_path, fleet, device, updating):
    """As `edgectl bench` sends them: of random numbers two good revisions may think as they like."""
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=-2.0, extra=SHADOW))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait(lambda model: model.phase == "shadow")
    synthetic = scale(1.0, 2.0)
    synthetic.parameters["edged_synthetic"].bool_param = True
    for _ in range(30):
        device.infer(synthetic)
    assert updating.model().phase == "shadow"
    bench = [sys.executable, "-m", "edged.ctl.main", "--root", str(device.root), "bench", "scale", "--seconds", "1"]
    subprocess.run(bench, check=True, capture_output=True, timeout=PATIENCE_S)
    assert updating.model().phase == "shadow"
    with traffic(device, 1.0, 2.0):
        updating.wait_idle_at(1)
    (step,) = [step for step in updating.history() if step.before == "shadow"]
    assert step.reason == "shadow_disagreement"
    assert "of 20 copied requests agree" in step.text


class TestARevisionThatFailsOnceItServes:
    """It passes its goldens, and then meets what it cannot bear."""

    def gone_back_on(
        self, tmp_path, fleet, device, updating, does: str, reason: str, values: float = 666.0
    ) -> list[object]:
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, runtime="hostile", does=does, extra=SOAK))
        fleet.plan("scale", 2)
        updating.look()
        updating.wait(lambda model: model.phase == "soaking")
        with traffic(device, values, 1.0) as found:
            updating.wait_idle_at(1)
            count = len(found)
            until(lambda: len(found), "twenty more are answered", holds=lambda now: now >= count + 20, log=device.log)
        step = next(each for each in reversed(updating.history()) if each.reason)
        assert (step.reason, step.before) == (reason, "soaking"), step
        assert updating.answers() == ([2.0, 4.0], 1)
        return found

    def test_with_errors(self, tmp_path, fleet, device, updating):
        found = self.gone_back_on(tmp_path, fleet, device, updating, "shape", "error_rate")
        assert not failures(found)

    def test_with_crashes(self, tmp_path, fleet, device, updating):
        found = self.gone_back_on(tmp_path, fleet, device, updating, "segfault", "crash_loop")
        assert not failures(found)

    def test_with_a_hang(self, tmp_path, fleet, device, updating):
        """The caller whose request hung is told, since its time is gone; its next request finds the one before."""
        found = self.gone_back_on(tmp_path, fleet, device, updating, "hang", "worker_hang")
        assert [dict(each.trailing_metadata())["edged-code"] for each in failures(found)] == ["worker_hang"]

    def test_with_a_hang_while_others_wait(self, tmp_path, fleet, device, updating):
        """Who waits behind the request that hung is answered by the revision before, and hangs in no new worker."""
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, runtime="hostile", does="hang", extra=SOAK))
        fleet.plan("scale", 2)
        updating.look()
        updating.wait(lambda model: model.phase == "soaking")
        until(
            lambda: device.infer(scale(1.0, 2.0)).model_version,
            "revision 2 serves",
            holds=lambda version: version == "2",
        )
        ask = device.channel().unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        def has(executing: int, queued: int) -> Callable[[], bool]:
            return lambda: any(
                (each.revision, each.executing, each.queued) == (2, executing, queued)
                for each in device.status().models
            )

        hangs = ask.future(scale(666.0, 1.0), timeout=PATIENCE_S)
        until(has(1, 0), "it computes")
        wait = [ask.future(scale(666.0, 1.0), timeout=PATIENCE_S) for _ in range(3)]
        until(has(1, 3), "the others wait")
        assert dict(hangs.trailing_metadata())["edged-code"] == "worker_hang"
        assert [each.result().model_version for each in wait] == ["1"] * 3
        updating.wait_idle_at(1)
        assert updating.last_reason() == "worker_hang"

    def test_with_what_its_engine_refuses(self, tmp_path, fleet, device, updating):
        """An engine may call its own model's defect a wrong request; the revision before shows that it was none."""
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, model=picky_model(most=600.0), extra=SOAK))
        fleet.plan("scale", 2)
        updating.look()
        updating.wait(lambda model: model.phase == "soaking")
        with pytest.raises(grpc.RpcError, match="refuses the values"):
            device.infer(scale(666.0, 1.0, version="2"))
        with traffic(device, 666.0, 1.0) as found:
            updating.wait_idle_at(1)
        assert updating.last_reason() == "error_rate"
        assert not failures(found)


def test_a_wrong_request_during_a_soak_counts_against_nobody(tmp_path, fleet, device, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, extra=SOAK))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait(lambda model: model.phase == "soaking")
    elsewhere = scale(1.0, 2.0)
    elsewhere.ClearField("raw_input_contents")
    elsewhere.inputs[0].parameters["shared_memory_region"].string_param = "nobody"
    elsewhere.inputs[0].parameters["shared_memory_byte_size"].int64_param = 8
    for wrong, why in ((scale(1.0, 2.0, 3.0), "it takes"), (elsewhere, "no shared-memory region")):
        for _ in range(100):
            with pytest.raises(grpc.RpcError, match=why):
                device.infer(wrong)
    with traffic(device, 1.0, 2.0):
        updating.wait_idle_at(2)


def test_an_administrator_who_goes_back_during_a_soak_is_obeyed_at_once(tmp_path, fleet, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, extra=SOAK))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait(lambda model: model.phase == "soaking")
    assert updating.call("RollBack", up.RollBackRequest(model="scale"), up.RollBackResponse).revision == 1
    updating.wait_idle_at(1)
    assert updating.last_reason() == "operator"
    released = updating.call(
        "ReleaseQuarantine", up.ReleaseQuarantineRequest(name="scale"), up.ReleaseQuarantineResponse
    )
    assert [each.revision for each in released.released] == [2]
    updating.wait(lambda model: model.phase == "soaking")


@pytest.mark.parametrize("who", ["an administrator", "the plan"])
def test_who_wants_back_what_served_before_a_soak_has_it_at_once_and_its_worker_stays(tmp_path, fleet, updating, who):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, extra=SOAK))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait(lambda model: model.phase == "soaking")
    began = len(updating.history())
    (before,) = [each.pid for each in updating.daemon.status().workers if each.revision == 1]
    if who == "the plan":
        fleet.plan("scale", 1)
        updating.look()
    else:
        updating.call("Pin", up.PinRequest(model="scale", revision=1), up.PinResponse)
    updating.wait_idle_at(1)
    updating.daemon.wait_for(lambda status: [each.pid for each in status.workers] == [before])
    updating.look()
    assert [each.event for each in updating.history()[began:]] == ["superseded"]
    assert updating.answers() == ([2.0, 4.0], 1)


def test_a_hold_keeps_the_route_until_it_is_released(tmp_path, fleet, updating):
    lease = updating.call(
        "HoldUpdates", up.HoldUpdatesRequest(owner="a test", seconds=600), up.HoldUpdatesResponse
    ).lease
    fleet.publish(scale_bundle(tmp_path / "bundles", 2))
    fleet.plan("scale", 2)
    updating.look()
    held = updating.wait(lambda model: bool(model.deferred))
    assert held.phase == "shadow"
    assert "a test holds it" in held.deferred
    assert updating.answers()[1] == 1
    updating.call("ReleaseHold", up.ReleaseHoldRequest(lease=lease), up.ReleaseHoldResponse)
    updating.wait_idle_at(2)


def test_a_model_that_there_is_not_can_be_neither_held_nor_pinned_as_a_path(updating):
    hold = up.HoldUpdatesRequest(owner="a test", model="nobody", seconds=600)
    with pytest.raises(grpc.RpcError) as caught:
        updating.call("HoldUpdates", hold, up.HoldUpdatesResponse)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError, match="is no model's name"):
        updating.call("Pin", up.PinRequest(model="../revisions/scale", revision=1), up.PinResponse)


@pytest.mark.parametrize("seconds", [0, 3601])
def test_a_hold_is_no_longer_than_the_settings_allow(updating, seconds):
    hold = up.HoldUpdatesRequest(owner="a test", seconds=seconds)
    with pytest.raises(grpc.RpcError, match=r"update\.hold_max_s") as caught:
        updating.call("HoldUpdates", hold, up.HoldUpdatesResponse)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_pin_overrides_the_plan_until_it_is_released(tmp_path, fleet, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2), scale_bundle(tmp_path / "bundles", 3))
    fleet.plan("scale", 2)
    updating.call("Pin", up.PinRequest(model="scale", revision=3), up.PinResponse)
    updating.wait_idle_at(3)
    updating.look()
    assert updating.model().pinned == 3
    updating.call("Unpin", up.UnpinRequest(model="scale"), up.UnpinResponse)
    updating.wait_idle_at(2)


def test_the_plan_may_go_back_but_not_below_the_floor(tmp_path, fleet, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2), scale_bundle(tmp_path / "bundles", 3))
    fleet.plan("scale", 3)
    updating.look()
    updating.wait_idle_at(3)
    fleet.plan("scale", 2)
    updating.look()
    updating.wait_idle_at(2)
    fleet.publish(scale_bundle(tmp_path / "bundles", 4, min_revision=4))
    fleet.plan("scale", 4)
    updating.look()
    updating.wait_idle_at(4)
    with pytest.raises(grpc.RpcError, match="below 4"):
        updating.call("Pin", up.PinRequest(model="scale", revision=3), up.PinResponse)


def test_what_is_not_wanted_any_more_is_given_up(tmp_path, fleet, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, extra=SOAK), scale_bundle(tmp_path / "bundles", 3))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait(lambda model: model.phase == "soaking")
    fleet.plan("scale", 3)
    updating.look()
    updating.wait_idle_at(3)
    assert [step.event for step in updating.history() if step.revision == 2][-1] == "superseded"


def test_a_stick_brings_what_the_network_does_not(tmp_path, fleet, updating):
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=5.0))
    fleet.plan("scale", 2)
    stick = tmp_path / "stick"
    shutil.move(fleet.repository, stick)
    with pytest.raises(grpc.RpcError):
        updating.look()
    assert updating.answers() == ([2.0, 4.0], 1)
    updating.look(from_dir=str(stick))
    updating.wait_idle_at(2)
    assert updating.answers() == ([5.0, 10.0], 2)


class TestAStart:
    def updated(self, tmp_path, fleet, updating) -> None:
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=3.0))
        fleet.plan("scale", 2)
        updating.look()
        updating.wait_idle_at(2)

    def explained(self, updating: Updating) -> str:
        return "\n".join(updating.call("Explain", up.ExplainRequest(model="scale"), up.ExplainResponse).lines)

    def test_serves_what_served_last(self, tmp_path, fleet, device, updating):
        self.updated(tmp_path, fleet, updating)
        restart(device)
        assert updating.answers() == ([3.0, 6.0], 2)
        assert "revision 2 was chosen: it served last" in self.explained(updating)

    def test_passes_over_what_is_not_whole_and_says_so(self, tmp_path, fleet, device, updating):
        self.updated(tmp_path, fleet, updating)
        device.stop()
        store = device.root / "var/lib/edged/store"
        (store / "revisions/scale/2/manifest.json").unlink()
        restart(device)
        assert updating.answers() == ([2.0, 4.0], 1)
        assert "revision 2 was passed over: it is not on this device as it was signed" in self.explained(updating)
        assert any("instead of 2" in reason for reason in device.status().degraded_reasons)

    def test_passes_over_a_blob_that_was_changed(self, tmp_path, fleet, device, updating):
        self.updated(tmp_path, fleet, updating)
        device.stop()
        blob = device.root / "var/lib/edged/store/revisions/scale/2/model.onnx"
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.chmod(0o600)
        blob.write_bytes(content)
        restart(device)
        assert updating.answers() == ([2.0, 4.0], 1)
        assert "revision 2 was passed over" in self.explained(updating)

    def test_serves_from_a_damaged_journal(self, tmp_path, fleet, device, updating):
        self.updated(tmp_path, fleet, updating)
        device.stop()
        (device.root / "var/lib/edged/journal.db").write_bytes(b"junk" * 999)
        restart(device)
        assert updating.answers() == ([3.0, 6.0], 2)
        assert any("journal was damaged" in reason for reason in device.status().degraded_reasons)

    def test_goes_on_with_a_soak_and_counts_its_crashes(self, tmp_path, fleet, device, updating):
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, runtime="hostile", does="segfault", extra=SOAK))
        fleet.plan("scale", 2)
        updating.look()
        updating.wait(lambda model: model.phase == "soaking")
        device.infer(scale(666.0, 1.0))
        updating.wait(lambda model: model.crashes == 1)
        device.process.kill()
        device.process.wait()
        restart(device)
        assert updating.model().crashes == 1
        assert updating.answers()[1] == 2
        device.infer(scale(666.0, 1.0))
        updating.wait(lambda model: model.crashes == 2)
        assert np.allclose(updating.answers()[0], [2.0, 4.0])
