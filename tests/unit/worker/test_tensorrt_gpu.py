"""Workers of TensorRT on a GPU: what the stand-ins of `test_tensorrt_worker.py` cannot show. It never ran so far."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import helper
from support.daemon import DIGITS
from support.nvidia import by_tensorrt

from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES
from edged.system import hardware
from edged.types import Datatype
from edged.worker import process
from edged.worker.codec import DTYPES
from edged.worker.messages import Build, Derived, FileRef, Load

pytestmark = pytest.mark.skipif(
    ENGINES["tensorrt"].version() is None or not hardware.present("nvidia"), reason="needs an NVIDIA GPU with TensorRT"
)

CAPS = process.Caps(load_s=600, first_inference_s=60, inference_s=60, memory_bytes=16 * 2**30, arena_bytes=16 * 2**20)
ROWS = 64


def digits(folder, **options: object) -> Load:
    """The model of the image, on its GPU."""
    tensors = [("image", "FP32", [-1, 1, 8, 8])], [("scores", "FP32", [-1, 10])]
    load = folder.load([helper.make_node("Identity", ["image"], ["scores"])], *tensors, max_batch_size=ROWS)
    file = folder.file("digits.onnx", (DIGITS / "model.onnx").read_bytes())
    return by_tensorrt(msgspec.structs.replace(load, source=msgspec.structs.replace(load.source, file=file)), **options)


def expected() -> tuple[np.ndarray, np.ndarray]:
    with np.load(DIGITS / "goldens.npz") as goldens:
        return goldens["inputs/image"][:ROWS], goldens["outputs/scores"][:ROWS]


def asked_to_build(load: Load, output: Path) -> Build:
    output.touch()
    return Build(load.source, str(output), 2**28)


async def built(load: Load, folder: Path) -> Load:
    """The same on a plan that a worker before has built."""
    builder = await process.start(asked_to_build(load, folder / "plan"), CAPS)
    await builder.stop(10)
    content = (folder / "plan").read_bytes()
    file = FileRef("plan", len(content), sha256(content).hexdigest())
    return msgspec.structs.replace(load, derived=Derived(str(folder), file))


async def answers(load: Load, batch_of: Callable, members: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    started = await process.start(load, CAPS)
    try:
        return await batch_of(load, members).by(started)
    finally:
        await started.stop(10)


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-4), ("", 1e-2), ("fp16", 5e-2)])
async def test_digits_are_read_on_a_gpu(folder, batch_of: Callable, tmp_path: Path, precision: str, atol: float):
    if precision == "fp16" and int((ENGINES["tensorrt"].version() or "0").split(".")[0]) >= 11:
        pytest.skip("TensorRT 11 computes in the types of the file alone")
    image, scores = expected()
    load = await built(digits(folder, precision=precision), tmp_path)
    found = await answers(load, batch_of, [{"image": image[:1]}, {"image": image[1:7]}, {"image": image[7:]}])
    together = np.concatenate([each["scores"] for each in found])
    np.testing.assert_allclose(together, scores, atol=atol, rtol=atol)


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "BF16", "FP32"])
async def test_tensors_of_each_datatype_reach_a_gpu_and_come_back(folder, batch_of: Callable, datatype: str):
    """Some versions refuse some of them as inputs, which they then say."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    load = by_tensorrt(folder.load(nodes, [("x", datatype, [-1, 3])], [("y", datatype, [-1, 3])]))
    numbers = np.arange(6).reshape(2, 3)
    sent = (numbers % 2 == 1) if datatype == "BOOL" else numbers.astype(DTYPES[Datatype(datatype)])
    try:
        (answer,) = await answers(load, batch_of, [{"x": sent}])
    except EdgedError as error:
        if error.code is not Code.LOAD_FAILED:
            raise
        pytest.skip(f"TensorRT {ENGINES['tensorrt'].version()} has none such here: {error.message}")
    assert np.array_equal(answer["y"], sent)


async def test_a_plan_that_is_none_is_refused_by_tensorrt_itself(folder, tmp_path: Path):
    content = b"nothing of tensorrt"
    (tmp_path / "plan").write_bytes(content)
    file = FileRef("plan", len(content), sha256(content).hexdigest())
    with pytest.raises(EdgedError, match="tensorrt does not take the plan") as caught:
        await process.start(msgspec.structs.replace(digits(folder), derived=Derived(str(tmp_path), file)), CAPS)
    assert caught.value.code is Code.DERIVED_UNUSABLE


async def test_a_gpu_that_is_not_there_is_told(folder):
    with pytest.raises(EdgedError, match=r"there is no GPU\.99") as caught:
        await process.start(digits(folder, device="GPU.99"), CAPS)
    assert caught.value.code is Code.INCOMPATIBLE_HARDWARE
