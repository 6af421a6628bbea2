"""Workers reach nothing but their bundle: models that reach for the rest, beside digits, and the engines themselves."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.bundles import make_bundle
from support.calls import pack, refusal, request, tensor
from support.daemon import DIGITS, Daemon
from support.interpreter import hostile_interpreter

from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb
from edged.worker import landlock

TRIGGER = 666.0

FORKED, SPAWNED = "reaching", "threaded_reaching"

needs_landlock = pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_interpreter(tmp_path_factory.mktemp("interpreter"))


@pytest.fixture(scope="session")
def landlockless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_interpreter(tmp_path_factory.mktemp("landlockless"), "landlockless_site")


def reaching_daemon(folder: Path, interpreter: Path, runtime: str) -> Daemon:
    """A daemon with digits and a model of `runtime` that knows where the daemon keeps its own."""
    root = folder / "root"
    tensors = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
    model = json.dumps({"root": str(root)}).encode()
    bundle = make_bundle(folder / "reaching", model, *tensors, name="reaching", runtime=runtime)
    state = root / "var/lib/edged"
    state.mkdir(parents=True, mode=0o700)
    for name in ("secret", "removable", "movable"):
        (state / name).write_text("the daemon's own")
    return Daemon(root, [DIGITS, bundle], "[workers]\nrestart_min_s = 0.05\n", interpreter)


@pytest.fixture(params=[FORKED, SPAWNED])
def beside(request: pytest.FixtureRequest, tmp_path: Path, interpreter: Path) -> Iterator[Daemon]:
    """Such a daemon, with every layer that this machine's kernel has."""
    with reaching_daemon(tmp_path, interpreter, request.param) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        yield daemon
        assert daemon.stop() == 0


def asked(value: float) -> pb.ModelInferRequest:
    return request("reaching", tensor("x", "FP32", [1, 2]), raw=[pack("FP32", [value, 1.0])])


def doubled(daemon: Daemon) -> bool:
    answer = daemon.infer(asked(2.5))
    return struct.unpack("<2f", answer.raw_output_contents[0]) == (5.0, 2.0)


def digit(daemon: Daemon) -> bytes:
    image = request("digits", tensor("image", "FP32", [1, 1, 8, 8]), raw=[bytes(256)])
    return bytes(daemon.infer(image).raw_output_contents[0])


def reached(daemon: Daemon) -> dict[str, str]:
    """What the model tried, and how it ended."""
    with pytest.raises(grpc.RpcError) as raised:
        daemon.infer(asked(TRIGGER))
    found = refusal(raised.value)
    assert found.code == "inference_failed", daemon.log()
    return json.loads(found.message[found.message.index("{") : found.message.rindex("}") + 1])


def worker(daemon: Daemon, model: str = "reaching") -> admin_pb2.Worker:
    return next(each for each in daemon.status().workers if each.model == model)


@needs_landlock
def test_a_model_reaches_nothing_that_is_not_its_own(beside: Daemon) -> None:
    daemon = beside
    digits = digit(daemon)
    made = worker(daemon)
    assert ("spawned" in made.caps) == (made.runtime == SPAWNED)
    assert list(made.sandbox_lacks) == []
    found = reached(daemon)
    assert found.pop("own bundle") == "done"
    got_through = {name: how for name, how in found.items() if how not in ("EPERM", "EACCES")}
    assert not got_through
    assert len(found) > 30
    state = daemon.root / "var/lib/edged"
    assert {(state / name).read_text() for name in ("secret", "removable", "movable")} == {"the daemon's own"}
    assert doubled(daemon)
    assert digit(daemon) == digits
    assert worker(daemon).pid == made.pid, "it lives, and is refused"
    assert not daemon.status().degraded_reasons


def test_a_kernel_without_landlock_is_told_and_the_rest_holds(tmp_path: Path, landlockless: Path) -> None:
    with reaching_daemon(tmp_path, landlockless, FORKED) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        made = worker(daemon)
        assert list(made.sandbox_lacks) == ["Landlock (this kernel has none, or it is not switched on)"]
        assert "system-call filter" in made.sandbox
        found = reached(daemon)
        assert found.pop("own bundle") == "done"
        got_through = {name for name, how in found.items() if how == "done"}
        assert got_through == {name for name in found if name.startswith("file: ")}
        assert doubled(daemon)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_engines_serve_within_it(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    bundle = make_bundle(
        tmp_path / "digits",
        (DIGITS / "model.onnx").read_bytes(),
        [("image", "FP32", [-1, 1, 8, 8])],
        [("scores", "FP32", [-1, 10])],
        name="digits",
        runtime=runtime,
    )
    with Daemon(tmp_path / "root", [bundle]) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        (made,) = daemon.status().workers
        assert list(made.sandbox_lacks) == []
        assert ("no new code" in made.sandbox) == (runtime == "onnxruntime")
        assert len(digit(daemon)) == 40
