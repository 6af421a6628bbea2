"""Workers of LiteRT: on the CPU, and with a library that stands in for libedgetpu's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import descriptors
from support.edgetpus import LIBRARY, build_library
from support.loads import worker
from support.tflites import compiled, doubling

from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES, SessionOptions
from edged.types import Datatype, TensorSpec
from edged.worker.messages import Failed, Load, Source

pytestmark = pytest.mark.skipif(ENGINES["edgetpu"].version() is None, reason="ai-edge-litert is not installed")

ROW = np.int8([[1, 2, 3, 126]])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("edgetpu"))


@pytest.fixture
def one_edge_tpu(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This device has the library, and an Edge TPU on USB."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))


def load(
    folder, model: bytes, device: str = "", shape: tuple[int, ...] = (1, 4), kind: Datatype = Datatype.INT8
) -> Load:
    source = Source(str(folder.path), folder.file("model.tflite", model), "edgetpu", SessionOptions(1, device=device))
    batch = 8 if shape[0] == -1 else 0
    return Load(
        source,
        (TensorSpec("x", kind, shape),),
        (TensorSpec("y", kind, shape),),
        max_batch_size=batch,
        max_answer_bytes=0,
        warmup=(),
    )


async def refusal(load: Load, code: Code = Code.LOAD_FAILED) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        async with worker(load):
            pass
    assert caught.value.code is code
    return caught.value


async def test_members_of_a_batch_get_what_they_would_alone(folder, batch_of: Callable):
    asked = load(folder, doubling([-1, 3]), "CPU", (-1, 3), Datatype.FP32)
    members = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 3, 2)]
    async with worker(asked) as started:
        answers = await batch_of(asked, members).by(started)
        again = await batch_of(asked, members[:1]).by(started)
        assert descriptors.count("socket:", started.pid) == 2, "the link, and the socket by which it gets regions"
    assert [answer["y"].tolist() for answer in answers] == [(2 * member["x"]).tolist() for member in members]
    assert again[0]["y"].tolist() == answers[0]["y"].tolist(), "an answer does not change with the next one"


async def test_it_is_held_as_workers_of_other_engines(folder):
    async with worker(load(folder, doubling([1, 4], "INT8", scale=1), "CPU")) as started:
        held, lacking = started.loaded.sandbox, started.loaded.sandbox_lacks
    assert not lacking
    assert {"no new privileges", "no new code", "system-call filter"} <= set(held)


@pytest.mark.parametrize("device", ["", "usb", "usb:0", ":0"])
@pytest.mark.usefixtures("one_edge_tpu")
async def test_what_is_compiled_runs_on_the_edge_tpu(folder, batch_of: Callable, device: str):
    asked = load(folder, compiled(), device)
    async with worker(asked) as started:
        (answer,) = await batch_of(asked, [{"x": ROW}]).by(started)
    assert answer["y"].tolist() == [[2, 3, 4, 127]]


@pytest.mark.parametrize("device", ["pci", "usb:1", ":3"])
@pytest.mark.usefixtures("one_edge_tpu")
async def test_an_edge_tpu_that_is_not_there_is_told(folder, device: str):
    error = await refusal(load(folder, compiled(), device), Code.DEVICE_UNAVAILABLE)
    assert error.message.startswith(f"the Edge TPU {device} cannot be opened by {LIBRARY}: ")
    assert "edgectl doctor" in error.hint


@pytest.mark.usefixtures("one_edge_tpu")
async def test_an_edge_tpu_is_one_workers_at_a_time(folder, batch_of: Callable):
    asked = load(folder, compiled())
    async with worker(asked) as first:
        error = await refusal(asked, Code.DEVICE_UNAVAILABLE)
        assert error.message.startswith(f"an Edge TPU cannot be opened by {LIBRARY}: ")
        assert "one process at a time" in error.hint
        (answer,) = await batch_of(asked, [{"x": ROW}]).by(first)
        assert answer["y"].tolist() == [[2, 3, 4, 127]]
    async with worker(asked) as second:
        (answer,) = await batch_of(asked, [{"x": ROW}]).by(second)
        assert answer["y"].tolist() == [[2, 3, 4, 127]]


async def test_a_library_that_is_not_there_is_told(folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    error = await refusal(load(folder, compiled()), Code.INCOMPATIBLE_RUNTIME)
    assert error.message.startswith(f"an Edge TPU cannot be used: {LIBRARY}: cannot open shared object file")
    assert error.hint.startswith(f"install {LIBRARY}")


async def test_a_library_that_is_another_is_told(folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = ["gcc", "-shared", "-x", "c", "-o", str(tmp_path / LIBRARY), "/dev/null"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: ASYNC221 - a moment
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    error = await refusal(load(folder, compiled()), Code.INCOMPATIBLE_RUNTIME)
    assert "undefined symbol: tflite_plugin_create_delegate" in error.message


@pytest.mark.usefixtures("one_edge_tpu")
async def test_a_model_that_the_library_does_not_take_over_is_told(folder):
    error = await refusal(load(folder, compiled(b"prepare")))
    assert error.message.startswith("litert does not load it: ")
    assert f"compile it for the version of {LIBRARY} here" in error.hint


@pytest.mark.usefixtures("one_edge_tpu")
async def test_an_edge_tpu_that_fails_is_the_models_fault(folder, batch_of: Callable):
    asked = load(folder, compiled(b"invoke"))
    async with worker(asked) as started:
        (answer,) = await batch_of(asked, [{"x": ROW}]).by(started)
    assert isinstance(answer, Failed)
    assert answer.code == Code.INFERENCE_FAILED
    assert "litert failed: " in answer.message


@pytest.mark.usefixtures("one_edge_tpu")
async def test_an_edge_tpu_that_goes_on_to_fail_stays_the_workers_and_the_last_error_is_as_the_first(
    folder, batch_of: Callable
):
    """LiteRT's errors grow until another interpreter takes over the device, in a worker that may open nothing new."""
    asked = load(folder, compiled(b"invoke"))
    async with worker(asked) as started:
        (first,) = await batch_of(asked, [{"x": ROW}]).by(started)
        for _ in range(2**16 // len(first.message) + 100):
            (answer,) = await batch_of(asked, [{"x": ROW}]).by(started)
            assert answer.message == first.message
        assert not started.ended.done()


async def test_what_is_no_model_is_told_with_the_file(folder):
    error = await refusal(load(folder, b"nothing that it knows", "CPU"))
    assert error.message == "the file is not a TFLite model"
