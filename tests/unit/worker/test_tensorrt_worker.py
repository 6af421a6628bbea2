"""Workers of TensorRT, on stand-ins for NVIDIA's libraries: what edged asks of them, in which order, and what it makes
of their refusals. `tests/support/nvidia.py` says what that cannot show.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper
from support.loads import changed
from support.nvidia import COMPILER, Nvidia

from edged.errors import Code, EdgedError
from edged.runtimes.base import SessionOptions
from edged.types import Datatype
from edged.worker import landlock, process
from edged.worker.codec import DTYPES
from edged.worker.messages import Build, Derived, Failed, FileRef, Load

pytestmark = pytest.mark.skipif(COMPILER is None, reason="gcc is not installed")

CAPS = process.Caps(load_s=60, first_inference_s=60, inference_s=60, memory_bytes=4 * 2**30, arena_bytes=16 * 2**20)

SERVED = ["BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "BF16", "FP32"]

NO_DEVICE, OUT_OF_MEMORY, ILLEGAL_ADDRESS = 100, 2, 700


@pytest.fixture
def nvidia(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Nvidia:
    """Workers that start now find TensorRT 10, and a driver with one GPU."""
    return use(Nvidia(tmp_path_factory.mktemp("nvidia")), monkeypatch)


def use(made: Nvidia, monkeypatch: pytest.MonkeyPatch) -> Nvidia:
    monkeypatch.setattr(sys, "executable", str(made.interpreter))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(made.libraries))
    return made


def identity(datatype: str) -> tuple[list[object], list[tuple[str, str, list[int]]], list[tuple[str, str, list[int]]]]:
    return [helper.make_node("Identity", ["x"], ["y"])], [("x", datatype, [-1, 3])], [("y", datatype, [-1, 3])]


def add(*shapes: list[int]) -> tuple[list[object], list[tuple[str, str, list[int]]], list[tuple[str, str, list[int]]]]:
    first, second, result = shapes
    tensors = [("a", "FP32", first), ("b", "FP32", second)], [("sum", "FP32", result)]
    return [helper.make_node("Add", ["a", "b"], ["sum"])], *tensors


def by_tensorrt(load: Load, **options: object) -> Load:
    """As `edged.models.loading` has a worker load it."""
    told = SessionOptions(
        max_batch_size=load.max_batch_size, shapes={tensor.name: tensor.shape for tensor in load.inputs}, threads=1
    )
    source = msgspec.structs.replace(load.source, runtime="tensorrt", options=msgspec.structs.replace(told, **options))
    return msgspec.structs.replace(load, source=source)


@asynccontextmanager
async def worker(load: Load) -> AsyncIterator[process.Worker]:
    started = await process.start(load, CAPS)
    try:
        yield started
    finally:
        await started.stop(5)


async def built(load: Load, output: Path) -> FileRef:
    """Has a worker build, and end."""
    output.touch()
    builder = await process.start(Build(load.source, str(output), 2**20), CAPS)
    await builder.stop(5)
    content = output.read_bytes()  # noqa: ASYNC240 - some bytes
    return FileRef(output.name, len(content), sha256(content).hexdigest())


async def plan_of(load: Load, folder: Path) -> dict[str, object]:
    """For what a plan of it is built."""
    await built(load, folder / "plan")
    return dict(json.loads((folder / "plan").read_bytes().partition(b"\n")[0]))


async def refusal(load: Load) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        await process.start(load, CAPS)
    return caught.value


@pytest.mark.parametrize("datatype", SERVED)
async def test_tensorrt_gives_what_it_gets(nvidia: Nvidia, folder, batch_of: Callable, datatype: str):
    load = by_tensorrt(folder.load(*identity(datatype)))
    numbers = np.arange(6).reshape(2, 3)
    sent = (numbers % 2 == 1) if datatype == "BOOL" else numbers.astype(DTYPES[Datatype(datatype)])
    async with worker(load) as started:
        (answer,) = await batch_of(load, [{"x": sent}]).by(started)
    assert np.array_equal(answer["y"], sent)
    assert answer["y"].dtype == sent.dtype
