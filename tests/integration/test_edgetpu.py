"""A device with an Edge TPU, and one without: a daemon serves TFLite models, from workers that are held as all are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.bundles import make_bundle
from support.calls import pack, request, tensor
from support.daemon import PATIENCE_S, Daemon
from support.edgetpus import LIBRARY, LIGHTER, build_library
from support.fleet import Fleet
from support.tflites import compiled, tflite_model
from support.updating import QUICK, Updating

from edged._pb.inference import grpc_service_pb2 as pb
from edged.runtimes.base import ENGINES

pytestmark = pytest.mark.skipif(ENGINES["edgetpu"].version() is None, reason="ai-edge-litert is not installed")

INPUTS, OUTPUTS = [("x", "INT8", [1, 4])], [("y", "INT8", [1, 4])]
ROW = [1, 2, 3, 60]
# What the library that stands in for libedgetpu's answers, and what the variant for the CPU does: who answered is seen.
ONE_MORE = pack("INT8", [2, 3, 4, 61])
TWICE = pack("INT8", [2, 4, 6, 120])


def bundle(
    folder: Path,
    name: str = "small",
    *,
    revision: int = 1,
    model: bytes = b"",
    extra: str = "",
    others: str = LIGHTER,
    more: str = "",
) -> Path:
    """A bundle whose best variant is for an Edge TPU, and the other one for the CPU.

    `extra`: of the best, `others`: the variants beside it, `more`: of the bundle.
    """
    folder = folder / f"{name}-{revision}"
    lighter = tflite_model("ADD", INPUTS, OUTPUTS, takes=(0, 0), scale=1)
    return make_bundle(
        folder,
        model or compiled(),
        INPUTS,
        OUTPUTS,
        name=name,
        revision=revision,
        max_batch_size=0,
        runtime="edgetpu",
        file="model.tflite",
        more={"lighter.tflite": lighter},
        extra=extra + others + more,
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a daemon on a device with the library, and an Edge TPU on USB."""
    return {"LD_LIBRARY_PATH": str(build_library(tmp_path_factory.mktemp("library")))}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """One that has a bundle, and no Edge TPU unless it is started with one."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with Daemon(tmp_path / "root", [bundle(tmp_path / "bundles")]) as daemon:
        yield daemon


def answer(daemon: Daemon, model: str = "small") -> bytes:
    found = daemon.infer(request(model, tensor("x", "INT8", [1, 4]), raw=[pack("INT8", ROW)]))
    return bytes(found.raw_output_contents[0])


def test_with_an_edge_tpu_the_best_variant_serves_from_a_forked_and_confined_worker(
    device: Daemon, library: dict[str, str]
) -> None:
    device.start(environment=library)
    status = device.wait_for(lambda status: status.ready)
    (model,), (worker,) = status.models, status.workers
    assert (model.variant, model.runtime, model.degraded, list(model.passed_over)) == ("cpu", "edgetpu", False, [])
    assert "forked" in worker.caps
    assert list(worker.sandbox_lacks) == []
    assert "no new code" in worker.sandbox
    assert answer(device) == ONE_MORE


def test_without_its_library_the_next_variant_serves_and_the_reason_names_it(device: Daemon) -> None:
    device.start()
    (model,) = device.wait_for(lambda status: status.ready).models
    assert (model.variant, model.degraded) == ("lighter", True)
    (passed,) = model.passed_over
    assert (passed.variant, passed.code) == ("cpu", "incompatible_runtime")
    assert f"{LIBRARY}: cannot open shared object file" in passed.reason
    assert f"install {LIBRARY}" in passed.reason
    assert answer(device) == TWICE


@pytest.mark.parametrize(
    ("extra", "model", "why"),
    [
        ('options = { device = "pci" }', b"", "the Edge TPU pci cannot be opened"),
        ('requires = { accelerator = "edgetpu" }', b"", "needs the accelerator edgetpu"),
        ('options = { device = "GPU" }', b"", "device 'GPU' is not one that edgetpu can use"),
        ("", compiled(b"prepare"), "litert does not load it"),
        ("", LIGHTER.encode(), "the file is not a TFLite model"),
    ],
    ids=["another", "none by its node", "no such device", "refused by the library", "no model"],
)
def test_what_keeps_the_best_variant_from_running_is_told(
    tmp_path: Path, library: dict[str, str], extra: str, model: bytes, why: str
) -> None:
    with Daemon(tmp_path / "root", [bundle(tmp_path, extra=f"{extra}\n", model=model)]) as daemon:
        daemon.start(environment=library)
        (found,) = daemon.wait_for(lambda status: status.ready and status.models[0].passed_over).models
        assert found.variant == "lighter"
        assert why in found.passed_over[0].reason
        assert answer(daemon) == TWICE


def test_a_library_that_crashes_with_this_litert_costs_its_variant_only(
    tmp_path: Path, library: dict[str, str]
) -> None:
    settings = "[workers]\nrestart_min_s = 0.01\n"
    with Daemon(tmp_path / "root", [bundle(tmp_path, model=compiled(b"crash"))], settings) as daemon:
        daemon.start(environment=library)
        (found,) = daemon.wait_for(lambda status: status.ready).models
        assert found.variant == "lighter"
        assert "SIGABRT" in found.passed_over[0].reason
        assert answer(daemon) == TWICE


def test_one_edge_tpu_is_one_models(tmp_path: Path, library: dict[str, str]) -> None:
    """The other runs on the CPU, and says who cannot have what."""
    bundles = [bundle(tmp_path, name) for name in ("first", "second")]
    with Daemon(tmp_path / "root", bundles) as daemon:
        daemon.start(environment=library)
        models = daemon.wait_for(
            lambda status: (
                status.ready
                and all(each.ready and (each.variant == "cpu" or each.passed_over) for each in status.models)
            )
        ).models
        assert sorted(model.variant for model in models) == ["cpu", "lighter"]
        (lighter,) = (model for model in models if model.variant == "lighter")
        assert "no other model has it: one process at a time can" in lighter.passed_over[0].reason
        assert sorted(answer(daemon, model.name) for model in models) == sorted([ONE_MORE, TWICE])


def test_an_edge_tpu_that_another_model_gave_back_is_taken_up(tmp_path: Path, library: dict[str, str]) -> None:
    """Nothing is held against the variant that could not have it."""
    settings = "[workers]\nrestart_min_s = 0.05\nrestart_max_s = 0.2\n"
    bundles = [bundle(tmp_path, name) for name in ("first", "second")]
    with Daemon(tmp_path / "root", bundles, settings) as daemon:
        daemon.start(environment=library)
        models = daemon.wait_for(lambda status: status.ready and all(each.ready for each in status.models)).models
        (holder,) = (model.name for model in models if model.variant == "cpu")
        (other,) = (model.name for model in models if model.variant == "lighter")
        unload = pb.RepositoryModelUnloadRequest(model_name=holder)
        method = "inference.GRPCInferenceService/RepositoryModelUnload"
        daemon.call(method, unload, pb.RepositoryModelUnloadResponse, admin=True)
        daemon.wait_for(lambda status: any((each.name, each.variant) == (other, "cpu") for each in status.models))
        assert answer(daemon, other) == ONE_MORE


def test_an_update_of_the_model_that_has_no_edge_tpu_passes_on_its_next_variant(
    tmp_path: Path, fleet: Fleet, library: dict[str, str]
) -> None:
    root = tmp_path / "root"
    with Daemon(root, [bundle(tmp_path, name) for name in ("first", "second")], fleet.trusted_by(root)) as daemon:
        daemon.start(environment=library)
        models = daemon.wait_for(lambda status: status.ready and all(each.ready for each in status.models)).models
        (other,) = (model.name for model in models if model.variant == "lighter")
        (holder,) = (model.name for model in models if model.variant == "cpu")
        updating = Updating(daemon)
        fleet.publish(bundle(tmp_path, other, revision=2, more=QUICK))
        fleet.plan(other, 2)
        updating.look()
        updating.wait(lambda model: model.phase == "idle" and model.serving == 2, other)
        found = {model.name: model for model in daemon.status().models}
        assert (found[other].revision, found[other].variant) == (2, "lighter")
        (passed,) = found[other].passed_over
        assert (passed.variant, passed.code) == ("cpu", "device_unavailable")
        assert f"model {holder} has it" in passed.reason
        assert found[holder].variant == "cpu"


@contextmanager
def asking(daemon: Daemon) -> Iterator[list[bytes]]:
    """Somebody asks one request after the other, and none of them fails."""
    answers: list[bytes] = []
    failed: list[grpc.RpcError] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set() and not failed:
            try:
                answers.append(answer(daemon))
            except grpc.RpcError as error:
                failed.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        yield answers
    finally:
        ended.set()
        caller.join(PATIENCE_S)
    assert not failed


def test_revisions_change_places_on_an_edge_tpu_and_no_request_fails(
    tmp_path: Path, fleet: Fleet, library: dict[str, str]
) -> None:
    root = tmp_path / "root"
    with Daemon(root, [bundle(tmp_path)], fleet.trusted_by(root)) as daemon:
        daemon.start(environment=library)
        daemon.wait_for(lambda status: status.ready)
        updating = Updating(daemon)
        fleet.publish(bundle(tmp_path, revision=2, more=QUICK))
        fleet.plan("small", 2)
        with asking(daemon) as answers:
            updating.look()
            updating.wait(lambda model: model.phase == "idle" and model.serving == 2, "small")
        assert set(answers) == {ONE_MORE}, "the lighter variant never served"
        history = updating.history("small")
        assert [step.event for step in history][:5] == ["wanted", "fetched", "taken_in", "swaps", "swapped"]
        assert history[3].text.startswith("one process at a time can have the device of variant cpu of revision 2")
        (model,) = daemon.status().models
        assert (model.revision, model.variant, list(model.passed_over)) == (2, "cpu", [])


@pytest.mark.parametrize(
    "first",
    [{"model": compiled(b"crash")}, {"extra": 'options = { device = "pci" }\n'}],
    ids=["crashes as it loads", "waits for its device"],
)
def test_a_revision_that_never_comes_up_on_its_edge_tpu_is_replaced(
    tmp_path: Path, fleet: Fleet, library: dict[str, str], first: dict[str, Any]
) -> None:
    root = tmp_path / "root"
    with Daemon(root, [bundle(tmp_path, others="", **first)], fleet.trusted_by(root)) as daemon:
        daemon.start(environment=library)
        daemon.wait_for(lambda status: status.models and status.models[0].reason)
        replace_with_the_second(daemon, fleet, tmp_path)


def test_an_unloaded_revision_is_replaced_on_its_edge_tpu(
    tmp_path: Path, fleet: Fleet, library: dict[str, str]
) -> None:
    root = tmp_path / "root"
    with Daemon(root, [bundle(tmp_path)], fleet.trusted_by(root)) as daemon:
        daemon.start(environment=library)
        daemon.wait_for(lambda status: status.ready)
        unload = pb.RepositoryModelUnloadRequest(model_name="small")
        method = "inference.GRPCInferenceService/RepositoryModelUnload"
        daemon.call(method, unload, pb.RepositoryModelUnloadResponse, admin=True)
        replace_with_the_second(daemon, fleet, tmp_path)


def replace_with_the_second(daemon: Daemon, fleet: Fleet, folder: Path) -> None:
    updating = Updating(daemon)
    fleet.publish(bundle(folder, revision=2, more=QUICK))
    fleet.plan("small", 2)
    updating.look()
    updating.wait(lambda model: (model.phase == "idle" and model.serving == 2) or bool(model.deferred), "small")
    assert "deferred" not in [step.event for step in updating.history("small")]
    assert answer(daemon) == ONE_MORE


@pytest.mark.parametrize("before", ["usb", ""], ids=["beside", "in the place"])
def test_a_revision_whose_edge_tpu_is_away_is_put_off(
    tmp_path: Path, fleet: Fleet, library: dict[str, str], before: str
) -> None:
    """It may be back any time: that is no fault of the revision, which is not given up for it."""
    root = tmp_path / "root"
    first = bundle(tmp_path, extra=f'options = {{ device = "{before}" }}\n')
    with Daemon(root, [first], fleet.trusted_by(root)) as daemon:
        daemon.start(environment=library)
        daemon.wait_for(lambda status: status.ready)
        updating = Updating(daemon)
        fleet.publish(bundle(tmp_path, revision=2, extra='options = { device = "pci" }\n', more=QUICK))
        fleet.plan("small", 2)
        updating.look()
        found = updating.wait(lambda model: bool(model.deferred) or model.phase == "idle", "small")
        assert found.deferred.startswith("it is tried again: the Edge TPU pci cannot be opened")
        assert found.phase == "trial"
        assert "failed" not in [step.event for step in updating.history("small")]
        daemon.wait_for(lambda status: status.ready)
        assert answer(daemon) == ONE_MORE
