"""What a pressed device gives up, and how it comes back: lighter variants, idle models, models that do not fit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import pytest
from sim import sysfs
from sim.hog import Hog
from support import bundles
from support.calls import pack, refusal, request, tensor
from support.daemon import DIGITS, PATIENCE_S, Daemon
from support.interpreter import hostile_interpreter
from support.polling import until

from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb

HOT_C, COOL_C = 85.5, 51.0
"""Critical for a Raspberry Pi whose kernel ends it at 110 °C, and nothing at all."""

HOTTEST_C = 95.0
"""An emergency for it."""

SETTINGS = "[pressure]\ndwell_s = 1\n"


def neg(folder: Path, name: str, extra: str = "") -> Path:
    """A model of FP32 `x` and `y` of shape [-1, 2]; `extra` belongs to its bundle.toml."""
    tensors = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
    nodes = [bundles.helper.make_node("Neg", ["x"], ["y"])]
    return bundles.make_bundle(folder / name, bundles.onnx_model(nodes, *tensors), *tensors, name=name, extra=extra)


def watchful(root: Path, bundles: list[Path], settings: str) -> Daemon:
    """One that looks at its sensors often."""
    return Daemon(root, bundles, settings, hostile_interpreter(root.parent / "python", "watchful_site"))


def asked(name: str, priority: int = 0) -> pb.ModelInferRequest:
    made = request(name, tensor("x", "FP32", [1, 2]), raw=[pack("FP32", [1.0, 2.0])])
    made.parameters["priority"].int64_param = priority
    return made


def model(status: admin_pb2.Status, name: str) -> admin_pb2.Model:
    return next(each for each in status.models if each.name == name)


class Callers:
    """Callers, of digits where nothing is said, who go on until they are left; every one of their answers counts."""

    def __init__(self, daemon: Daemon, ask: pb.ModelInferRequest | None = None, count: int = 3) -> None:
        self.answers: Counter[tuple[str, str, bool]] = Counter()
        """By level, variant, and whether that is told to be degraded."""
        self._daemon = daemon
        self._ask = ask or request("digits", tensor("image", "FP32", [1, 1, 8, 8]), raw=[bytes(256)])
        self._stop = Event()
        self._pool = ThreadPoolExecutor(count)
        self._callers = [self._pool.submit(self._call) for _ in range(count)]

    def _call(self) -> None:
        while not self._stop.is_set():
            told = self._daemon.infer(self._ask).parameters
            variant, degraded = told["edged_variant"].string_param, told["edged_degraded"].bool_param
            self.answers[told["edged_level"].string_param, variant, degraded] += 1

    def until(self, variant: str) -> None:
        """Waits for answers of `variant`, or of any where it is empty, beyond those that there are."""
        before = self._count(variant)
        until(
            lambda: (self.answers.copy(), any(caller.done() for caller in self._callers)),
            f"{variant or 'anybody'} answers, or a caller has failed",
            holds=lambda found: found[1] or self._count(variant) > before,
        )
        assert not any(caller.done() for caller in self._callers), "one has failed"

    def _count(self, variant: str) -> int:
        return sum(count for (_, name, _), count in self.answers.copy().items() if variant in ("", name))

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._pool:
            for caller in self._callers:
                caller.result()


@pytest.fixture
def pi(tmp_path: Path) -> sysfs.Sysfs:
    return sysfs.raspberry_pi(tmp_path / "root")


def test_heat_brings_the_lighter_variant_and_its_end_the_best_and_no_request_fails(pi: sysfs.Sysfs, tmp_path: Path):
    """Beside a model that gives most of its callers up, and none of those that matter most."""
    minor = neg(tmp_path, "minor", "[degradation.critical]\nmin_priority = 1\n")
    with watchful(pi.root, [DIGITS, minor], SETTINGS).start() as daemon:
        before = next(each for each in daemon.status().workers if each.model == "digits")
        daemon.infer(asked("minor"))
        with Callers(daemon) as callers:
            callers.until("fp32")
            pi.set_temperature(0, HOT_C)
            lighter = daemon.wait_for(lambda status: model(status, "digits").variant == "int8")
            callers.until("int8")
            with pytest.raises(grpc.RpcError) as raised:
                daemon.infer(asked("minor"))
            assert refusal(raised.value).code == "overloaded"
            daemon.infer(asked("minor", priority=1))
            pi.set_temperature(0, COOL_C)
            back = daemon.wait_for(lambda status: model(status, "digits").variant == "fp32")
            callers.until("fp32")
            daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_NOMINAL)
            daemon.infer(asked("minor"))
        assert before.variant == "fp32"
        assert lighter.level == admin_pb2.LEVEL_CRITICAL
        assert model(lighter, "digits").degraded
        assert any("int8 instead of fp32: the device's pressure is critical" in why for why in lighter.degraded_reasons)
        assert not model(back, "digits").degraded
        assert model(back, "digits").requests_failed == model(back, "digits").requests_refused == 0
        assert all(degraded == (variant == "int8") for _, variant, degraded in callers.answers)
        down, up = daemon.events("variant_changed")
        assert (down.details["variant"], up.details["variant"]) == ("int8", "fp32")
        assert down.message.endswith("instead of fp32: the device's pressure is critical")
        daemon.wait_for(lambda status: len(status.workers) == 2)


def test_of_two_models_with_opposite_priorities_one_pays_for_the_heat_and_the_other_notices_nothing(
    pi: sysfs.Sysfs, tmp_path: Path
):
    alarm, quality = asked("alarm", priority=1), asked("quality", priority=3)
    with watchful(pi.root, [neg(tmp_path, "alarm"), neg(tmp_path, "quality")], SETTINGS).start() as daemon:
        daemon.infer(quality)
        with Callers(daemon, alarm) as callers:
            callers.until("")
            pi.set_temperature(0, HOT_C)
            daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_CRITICAL)
            callers.until("")
            pi.set_temperature(0, HOTTEST_C)
            daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_EMERGENCY)
            with pytest.raises(grpc.RpcError) as raised:
                daemon.infer(quality)
            assert refusal(raised.value).code == "overloaded"
            assert "answers only priorities up to 1 now" in refusal(raised.value).message
            callers.until("")
            pi.set_temperature(0, COOL_C)
            daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_NOMINAL)
            daemon.infer(quality)
            callers.until("")
        cool = daemon.status()
        assert {"critical", "emergency"} <= {level for level, _, _ in callers.answers}
        assert model(cool, "alarm").requests_failed == model(cool, "alarm").requests_refused == 0
        assert model(cool, "quality").requests_refused == 1


def test_a_rate_that_heat_allows_is_given_to_the_first_priority_first(pi: sysfs.Sysfs, tmp_path: Path):
    """One request an hour, and as much ahead of that."""
    camera = neg(tmp_path, "camera", f"[degradation.critical]\nmax_rate = {1 / 3600}\n")
    with watchful(pi.root, [camera], SETTINGS).start() as daemon:
        pi.set_temperature(0, HOT_C)
        daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_CRITICAL)
        daemon.infer(asked("camera", priority=3))
        with pytest.raises(grpc.RpcError) as raised:
            daemon.infer(asked("camera", priority=3))
        assert refusal(raised.value).code == "overloaded"
        daemon.infer(asked("camera", priority=1))
        with pytest.raises(grpc.RpcError) as raised:
            daemon.infer(asked("camera", priority=1))
        assert refusal(raised.value).code == "overloaded"


def test_a_request_of_more_rows_than_a_level_allows_is_answered_as_before_to_the_bit(pi: sysfs.Sysfs, tmp_path: Path):
    """In executions that keep to the level's limit, four rows, and beside one another's."""
    rows = 7
    numbers = pack("FP32", [float(number) / 7 for number in range(2 * rows)])
    large = request("neg", tensor("x", "FP32", [rows, 2]), raw=[numbers])
    with watchful(pi.root, [neg(tmp_path, "neg")], SETTINGS).start() as daemon:
        cool = daemon.infer(large)
        pi.set_temperature(0, HOT_C)
        daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_CRITICAL)
        before = counted(daemon)
        ask = daemon.channel().unary_unary("/inference.GRPCInferenceService/ModelInfer")
        calls = [ask.future(each.SerializeToString()) for each in (large, asked("neg"), large)]
        first, single, last = (pb.ModelInferResponse.FromString(each.result(PATIENCE_S)) for each in calls)
        after = counted(daemon)
        too_many = request("neg", tensor("x", "FP32", [1000, 2]), raw=[bytes(8000)])
        with pytest.raises(grpc.RpcError) as raised:
            daemon.infer(too_many)
    assert refusal(raised.value).code == "invalid_tensor"
    assert first.parameters["edged_level"].string_param == "critical"
    for hot in (first, last):
        assert list(hot.outputs) == list(cool.outputs)
        assert hot.raw_output_contents == cool.raw_output_contents
    assert single.outputs[0].shape == [1, 2]
    assert after.inference_count - before.inference_count == 2 * rows + 1
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    sizes = {each.batch_size: each.compute_infer.count for each in after.batch_stats}
    for each in before.batch_stats:
        sizes[each.batch_size] -= each.compute_infer.count
    assert {size: count for size, count in sizes.items() if count} == {4: 2, 3: 2, 1: 1}
    assert after.execution_count - before.execution_count == 5


def counted(daemon: Daemon) -> pb.ModelStatistics:
    asked = pb.ModelStatisticsRequest(name="neg")
    told = daemon.call("inference.GRPCInferenceService/ModelStatistics", asked, pb.ModelStatisticsResponse)
    return told.model_stats[0]


def test_a_model_that_nobody_asks_goes_and_is_back_when_it_is_asked_or_loaded_or_when_it_is_cool(
    pi: sysfs.Sysfs, tmp_path: Path
):
    load, unload = pb.RepositoryModelLoadRequest(model_name="neg"), pb.RepositoryModelUnloadRequest(model_name="neg")
    service = "inference.GRPCInferenceService"
    with watchful(pi.root, [neg(tmp_path, "neg")], SETTINGS + "idle_s = 1\n").start() as daemon:
        pi.set_temperature(0, HOT_C)
        rests = daemon.wait_for(lambda status: not status.workers)
        assert model(rests, "neg").state == admin_pb2.MODEL_STATE_UNAVAILABLE
        assert "nobody has asked for" in model(rests, "neg").reason
        assert rests.ready, "it answers whoever asks"
        answer = daemon.infer(asked("neg"))
        assert answer.parameters["edged_level"].string_param == "critical", "it is hot all the same"
        daemon.wait_for(lambda status: not status.workers)
        daemon.call(f"{service}/RepositoryModelLoad", load, pb.RepositoryModelLoadResponse, admin=True)
        daemon.wait_for(lambda status: not status.workers)
        daemon.call(f"{service}/RepositoryModelUnload", unload, pb.RepositoryModelUnloadResponse, admin=True)
        with pytest.raises(grpc.RpcError) as raised:
            daemon.infer(asked("neg"))
        assert refusal(raised.value).code == "model_unavailable", "a person has unloaded it"
        daemon.call(f"{service}/RepositoryModelLoad", load, pb.RepositoryModelLoadResponse, admin=True)
        daemon.wait_for(lambda status: not status.workers)
        assert len(daemon.events("model_rests")) == 4
        pi.set_temperature(0, COOL_C)
        cool = daemon.wait_for(lambda status: model(status, "neg").ready and status.level == admin_pb2.LEVEL_NOMINAL)
        assert model(cool, "neg").requests_ok == 1


def test_a_model_that_does_not_fit_is_refused_with_the_numbers_and_others_serve(tmp_path: Path):
    large = neg(tmp_path, "large", "requires = { memory_mib = 900 }\n")
    settings = "[pressure]\nmemory_limit_mib = 600\nmemory_reserve_mib = 100\n"
    with Daemon(tmp_path / "root", [large, neg(tmp_path, "small")], settings).start() as daemon:
        daemon.infer(asked("small"))
        (refused,) = daemon.events("memory_short")
        assert (refused.subject, refused.details["variant"]) == ("large", "cpu")
        assert "model 'large' takes 900 MiB at its peak" in refused.message
        assert "of the 600 MiB that the settings allow are taken" in refused.message
        assert "100 MiB are kept in reserve" in refused.message
        with pytest.raises(grpc.RpcError) as raised:
            daemon.infer(asked("large"))
        assert refusal(raised.value).code == "model_unavailable"
        assert "takes 900 MiB at its peak" in refusal(raised.value).message


def test_what_was_measured_outlives_the_daemon(tmp_path: Path):
    modest = neg(tmp_path, "modest", "requires = { memory_mib = 900 }\n")
    state = tmp_path / "root/var/lib/edged"
    python = hostile_interpreter(tmp_path / "python", "impatient_site")
    with Daemon(tmp_path / "root", [modest], interpreter=python).start() as daemon:
        daemon.infer(asked("modest"))
        until(
            lambda: any(b" cpu onnxruntime " in file.read_bytes() for file in state.glob("journal*") if file.is_file()),
            "what was measured is kept",
            log=daemon.log,
        )
    settings = "[pressure]\nmemory_limit_mib = 600\nmemory_reserve_mib = 100\n"
    with Daemon(tmp_path / "root", settings=settings).start() as daemon:
        daemon.infer(asked("modest"))
        assert daemon.events("memory_short") == []


@pytest.mark.skipif(not Hog.possible(), reason="no memory control group of version 1 can be made here")
@pytest.mark.skipif(not Path("/proc/pressure/memory").exists(), reason="this kernel keeps no stall information")
def test_under_real_memory_pressure_the_important_model_answers_and_afterwards_all_is_back(tmp_path: Path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/proc").symlink_to("/proc")
    hog = Hog(tmp_path)
    with watchful(tmp_path / "root", [DIGITS], SETTINGS).start() as daemon:
        try:
            with Callers(daemon) as callers:
                hog.press()
                told = daemon.wait_for(lambda status: status.level != admin_pb2.LEVEL_NOMINAL)
                callers.until("")
                hog.relieve()
                daemon.wait_for(lambda status: status.level == admin_pb2.LEVEL_NOMINAL)
                callers.until("fp32")
        finally:
            hog.relieve()
        assert told.level in (admin_pb2.LEVEL_ELEVATED, admin_pb2.LEVEL_CRITICAL)
        assert any("memory.some" in event.message for event in daemon.events("pressure_level"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_state_folder_that_is_full_and_then_read_only_hinders_nobody(tmp_path: Path):
    state = tmp_path / "root/var/lib/edged"
    state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "edged-test", state], check=True)
    try:
        with contextlib.suppress(OSError), (state / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        with watchful(tmp_path / "root", [DIGITS, neg(tmp_path, "neg")], "[pressure]\ntrace_mib = 1\n") as daemon:
            daemon.start()
            pressed = until(lambda: daemon.events("pressure_level"), "the full disk is seen", log=daemon.log)
            assert (pressed[0].subject, pressed[0].details["level"]) == ("storage", "emergency")
            assert "no space is left in the state folder's file system" in pressed[0].message
            assert daemon.infer(asked("neg")).parameters["edged_level"].string_param == "nominal", (
                "callers feel nothing"
            )
            subprocess.run(["mount", "-o", "remount,ro", state], check=True)
            daemon.infer(asked("neg"))
            worker = next(each for each in daemon.status().workers if each.model == "neg")
            os.kill(worker.pid, signal.SIGKILL)
            daemon.wait_for(lambda status: model(status, "neg").ready and restarts(status, "neg") == 1)
            daemon.infer(asked("neg"))
            assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", "--lazy", state], check=True)


def restarts(status: admin_pb2.Status, name: str) -> int:
    return next((each.restarts for each in status.workers if each.model == name), 0)
