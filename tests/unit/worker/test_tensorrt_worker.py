"""Workers of TensorRT, on stand-ins for NVIDIA's libraries: what edged asks of them, in which order, and what it makes
of their refusals. `tests/support/nvidia.py` says what that cannot show.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper
from support.loads import CAPS, changed, worker
from support.nvidia import COMPILER, Nvidia, by_tensorrt

from edged.errors import Code, EdgedError
from edged.types import Datatype
from edged.worker import landlock, process
from edged.worker.codec import DTYPES
from edged.worker.messages import Build, Derived, Failed, FileRef, Load

pytestmark = pytest.mark.skipif(COMPILER is None, reason="gcc is not installed")


SERVED = ["BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "BF16", "FP32"]

NO_DEVICE, OUT_OF_MEMORY, ILLEGAL_ADDRESS = 100, 2, 700


@pytest.fixture(autouse=True)
def nvidia(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Nvidia:
    """Workers that start now find TensorRT 10, and a driver with one GPU."""
    return use(Nvidia(tmp_path_factory.mktemp("nvidia")), monkeypatch)


def use(made: Nvidia, monkeypatch: pytest.MonkeyPatch) -> Nvidia:
    monkeypatch.setattr(sys, "executable", str(made.interpreter))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(made.libraries))
    return made


def identity(datatype: str) -> tuple[list[object], list[tuple[str, str, list[int]]], list[tuple[str, str, list[int]]]]:
    return [helper.make_node("Identity", ["x"], ["y"])], [("x", datatype, [-1, 3])], [("y", datatype, [-1, 3])]


def asked_to_build(load: Load, output: Path) -> Build:
    output.touch()
    return Build(load.source, str(output), 2**20)


async def built(load: Load, output: Path) -> FileRef:
    """Has a worker build, and end."""
    builder = await process.start(asked_to_build(load, output), CAPS)
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
async def test_tensorrt_gives_what_it_gets(folder, batch_of: Callable, datatype: str):
    load = by_tensorrt(folder.load(*identity(datatype)))
    numbers = np.arange(6).reshape(2, 3)
    sent = (numbers % 2 == 1) if datatype == "BOOL" else numbers.astype(DTYPES[Datatype(datatype)])
    async with worker(load) as started:
        (answer,) = await batch_of(load, [{"x": sent}]).by(started)
    assert np.array_equal(answer["y"], sent)
    assert answer["y"].dtype == sent.dtype


async def test_members_of_a_batch_get_what_they_would_alone(folder, batch_of: Callable):
    """Whatever the size of the batch before: room on the GPU is kept from one to the next."""
    load = by_tensorrt(folder.load(*identity("FP32")))
    members = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 3, 2)]
    async with worker(load) as started:
        answers = await batch_of(load, members).by(started)
        again = await batch_of(load, members[:1]).by(started)
    assert [answer["y"].tolist() for answer in answers] == [member["x"].tolist() for member in members]
    assert again[0]["y"].tolist() == members[0]["x"].tolist()


async def test_only_what_is_asked_for_comes_back(folder, batch_of: Callable):
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Neg", ["x"], ["less"])]
    tensors = [("x", "FP32", [-1, 2])], [("same", "FP32", [-1, 2]), ("less", "FP32", [-1, 2])]
    load = by_tensorrt(folder.load(nodes, *tensors))
    x = np.array([[1, 2], [3, 4]], np.float32)
    async with worker(load) as started:
        (first,) = await batch_of(load, [{"x": x}], ["less"]).by(started)
        (both,) = await batch_of(load, [{"x": x}], ["less", "same"]).by(started)
    assert {name: array.tolist() for name, array in first.items()} == {"less": (-x).tolist()}
    assert {name: array.tolist() for name, array in both.items()} == {"less": (-x).tolist(), "same": x.tolist()}


async def test_what_was_built_answers_as_the_model_does(folder, batch_of: Callable, tmp_path: Path):
    load = by_tensorrt(folder.load(*identity("FP32")))
    file = await built(load, tmp_path / "plan")
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    async with worker(msgspec.structs.replace(load, derived=Derived(str(tmp_path), file))) as started:
        (answer,) = await batch_of(load, [{"x": sent}]).by(started)
        assert started.loaded.sandbox_lacks == ()
        holds = ["no new privileges", *["Landlock" for _ in range(landlock.abi() > 0)], "system-call filter"]
        assert [each.split(" ABI")[0] for each in started.loaded.sandbox] == holds
    assert np.array_equal(answer["y"], sent)


@pytest.mark.parametrize(
    ("shape", "declared", "rows", "profile"),
    [
        ([-1, 3], [-1, 3], 8, [[1, 3], [8, 3], [8, 3]]),
        ([-1, -1], [-1, 3], 4, [[1, 3], [4, 3], [4, 3]]),
        ([-1, -1], [2, 3], 0, [[2, 3], [2, 3], [2, 3]]),
        ([2, 3], [2, 3], 0, None),
    ],
    ids=["a batch", "a batch and a size that is declared", "no batch", "nothing open"],
)
async def test_a_plan_is_for_the_sizes_of_the_manifest(
    folder, tmp_path: Path, shape: list[int], declared: list[int], rows: int, profile: object
):
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    said = {"inputs": [("x", "FP32", declared)], "outputs": [("y", "FP32", declared)]}
    tensors = [("x", "FP32", shape)], [("y", "FP32", shape)]
    load = by_tensorrt(folder.load(nodes, *tensors, max_batch_size=rows, declared=said))
    assert (await plan_of(load, tmp_path))["profile"] == ({} if profile is None else {"x": profile})
    async with worker(load):  # and its signature is that of the manifest
        pass


@pytest.mark.parametrize(
    ("shape", "rows", "axis"), [([-1, -1], 8, 1), ([-1, 3], 0, 0), ([3, -1], 8, 1)], ids=["a row", "no batch", "fixed"]
)
async def test_a_size_that_nobody_knows_is_asked_for(folder, shape: list[int], rows: int, axis: int):
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    load = by_tensorrt(folder.load(nodes, [("x", "FP32", shape)], [("y", "FP32", shape)], max_batch_size=rows))
    error = await refusal(load)
    assert error.code is Code.LOAD_FAILED
    assert f"axis {axis} of input 'x' is open" in error.message
    assert "declare its size in the manifest's inputs" in error.hint


HALF = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), helper.make_node("Cast", ["h"], ["y"], to=1)]


def quantized() -> list[object]:
    scale = helper.make_node("Constant", [], ["s"], value=helper.make_tensor("s", TensorProto.FLOAT, [], [0.5]))
    zero = helper.make_node("Constant", [], ["z"], value=helper.make_tensor("z", TensorProto.INT8, [], [0]))
    there = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    return [scale, zero, there, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]


TENSORS = [("x", "FP32", [-1, 3])], [("y", "FP32", [-1, 3])]


@pytest.mark.parametrize(
    ("version", "precision", "nodes", "typed", "flags"),
    [
        ("8.6.2", "", HALF, False, ["FP16", "TF32"]),
        ("8.6.2", "fp32", [HALF[0], HALF[1]], False, ["FP16"]),
        ("8.6.2", "int8", quantized(), False, ["INT8", "TF32"]),
        ("8.6.2", "fp16", quantized(), False, ["FP16", "INT8", "TF32"]),
        ("10.3.0", "", HALF, True, ["TF32"]),
        ("10.3.0", "fp32", identity("FP32")[0], True, []),
        ("10.3.0", "fp16", identity("FP32")[0], False, ["FP16", "TF32"]),
        ("10.3.0", "bf16", identity("FP32")[0], False, ["BF16", "TF32"]),
        ("10.3.0", "int8", quantized(), True, ["TF32"]),
        ("11.4.0", "", quantized(), True, ["TF32"]),
        ("11.4.0", "fp32", identity("FP32")[0], True, []),
        ("11.4.0", "int8", quantized(), True, ["TF32"]),
    ],
)
async def test_each_version_is_told_the_precision_in_its_way(
    folder,
    tmp_path: Path,
    monkeypatch,
    version: str,
    precision: str,
    nodes: list[object],
    typed: bool,
    flags: list[str],
):
    use(Nvidia(tmp_path / "nvidia", version), monkeypatch)
    plan = await plan_of(by_tensorrt(folder.load(nodes, *TENSORS), precision=precision), tmp_path)
    assert (plan["version"], plan["typed"], plan["flags"]) == (version, typed, flags)


@pytest.mark.parametrize(
    ("version", "precision", "found", "remedy"),
    [
        ("8.6.2", "bf16", "8.6.2 cannot be told to compute in bf16", "convert the model"),
        ("11.4.0", "fp16", "11.4.0 cannot be told to compute in fp16", "convert the model"),
        ("10.3.0", "int8", "the model is not quantized", "quantize it before it is published"),
    ],
)
async def test_a_precision_that_there_is_not_is_told(
    folder, tmp_path: Path, monkeypatch, version: str, precision: str, found: str, remedy: str
):
    use(Nvidia(tmp_path / "nvidia", version), monkeypatch)
    error = await refusal(by_tensorrt(folder.load(*identity("FP32")), precision=precision))
    assert error.code is Code.LOAD_FAILED
    assert found in error.message
    assert remedy in error.hint


async def test_a_build_leaves_others_half_of_the_free_memory_and_their_cores(nvidia: Nvidia, folder, tmp_path: Path):
    nvidia.have(memory_bytes=2**29)
    plan = await plan_of(by_tensorrt(folder.load(*identity("FP32")), threads=3), tmp_path)
    assert (plan["workspace_bytes"], plan["threads"]) == (2**28, 3)


@pytest.mark.parametrize(
    ("device", "code", "found"),
    [
        ("GPU", None, ""),
        ("GPU.1", None, ""),
        ("GPU.2", Code.INCOMPATIBLE_HARDWARE, "there is no GPU.2: CUDA's driver shows 2 in all"),
        ("DLA", Code.LOAD_FAILED, "device 'DLA' is not one that tensorrt can use here"),
        ("CPU", Code.LOAD_FAILED, "device 'CPU'"),
        ("GPU.x", Code.LOAD_FAILED, "device 'GPU.x'"),
    ],
)
async def test_a_device_is_a_gpu_by_its_number(nvidia: Nvidia, folder, device: str, code: Code | None, found: str):
    nvidia.have(devices=2)
    load = by_tensorrt(folder.load(*identity("FP32")), device=device)
    if code is None:
        async with worker(load):
            return
    error = await refusal(load)
    assert error.code is code
    assert found in error.message


def without_driver(nvidia: Nvidia) -> None:
    nvidia.remove_driver()


def with_an_old_driver(nvidia: Nvidia) -> None:
    nvidia.age_driver()


def without_gpu(nvidia: Nvidia) -> None:
    nvidia.have(devices=0)


def without_permission(nvidia: Nvidia) -> None:
    nvidia.fail("cuInit", 304)


def without_memory_for_a_context(nvidia: Nvidia) -> None:
    nvidia.fail("cuDevicePrimaryCtxRetain", OUT_OF_MEMORY)


@pytest.mark.parametrize("derived", [False, True], ids=["of the model", "of what was built"])
@pytest.mark.parametrize(
    ("spoil", "code", "found"),
    [
        (without_driver, Code.INCOMPATIBLE_RUNTIME, "libcuda.so.1 cannot be loaded"),
        (with_an_old_driver, Code.INCOMPATIBLE_RUNTIME, "libcuda.so.1 is too old: "),
        (without_gpu, Code.INCOMPATIBLE_HARDWARE, "CUDA_ERROR_NO_DEVICE (100), no CUDA-capable device is detected"),
        (without_permission, Code.INCOMPATIBLE_HARDWARE, "CUDA_ERROR_OPERATING_SYSTEM (304)"),
        (without_memory_for_a_context, Code.MEMORY_SHORT, "not enough free memory for a context"),
    ],
)
async def test_the_driver_is_asked_before_tensorrt_which_crashes_without(
    nvidia: Nvidia, folder, tmp_path: Path, spoil: Callable[[Nvidia], None], code: Code, found: str, derived: bool
):
    """And what was built stays: to build it again would help nobody."""
    load = by_tensorrt(folder.load(*identity("FP32")))
    if derived:
        file = await built(load, tmp_path / "plan")
        load = msgspec.structs.replace(load, derived=Derived(str(tmp_path), file))
    spoil(nvidia)
    error = await refusal(load)
    assert error.code is code
    assert found in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "found"),
    [
        (
            [helper.make_node("NonZero", ["x"], ["y"])],
            [("x", "FP32", [4])],
            [("y", "INT64", [1, -1])],
            "the shape of output 'y' depends on the values",
        ),
        (
            [helper.make_node("Reshape", ["x", "to"], ["y"])],
            [("x", "FP32", [4]), ("to", "INT64", [2])],
            [("y", "FP32", [2, 2])],
            "'to' holds a shape",
        ),
        (
            [helper.make_node("Identity", ["x"], ["y"])],
            [("x", "FP64", [4])],
            [("y", "FP64", [4])],
            "tensorrt cannot read the model: Unsupported ONNX data type of x",
        ),
        (
            [helper.make_node("Strange", ["x"], ["y"], domain="example.org")],
            [("x", "FP32", [4])],
            [("y", "FP32", [4])],
            "No importer registered for op: Strange at a node",
        ),
    ],
    ids=["a shape by values", "a shape that is asked for", "a datatype", "an operator"],
)
async def test_a_model_that_tensorrt_cannot_run_is_told_in_words(
    folder, nodes: list[object], inputs: list, outputs: list, found: str
):
    error = await refusal(by_tensorrt(folder.load(nodes, inputs, outputs, max_batch_size=0)))
    assert error.code is Code.LOAD_FAILED
    assert found in error.message


async def test_what_the_bindings_raise_is_told_with_what_was_logged(nvidia: Nvidia, folder):
    nvidia.fail("launch", 1)
    error = await refusal(by_tensorrt(folder.load(*identity("FP32"))))
    assert error.code is Code.LOAD_FAILED
    assert error.message.endswith("factory function returned nullptr; CUDA initialization failure with error: 1")


async def test_a_model_whose_weights_lie_elsewhere_is_not_read(folder):
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3])
    load = by_tensorrt(folder.load([helper.make_node("Add", ["x", "w"], ["y"])], *TENSORS))
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    graph = helper.make_graph([], "g", [], [], [weights])
    file = folder.file("elsewhere.onnx", helper.make_model(graph).SerializeToString())
    error = await refusal(changed(load, file=file))
    assert error.code is Code.LOAD_FAILED
    assert "keeps its data in another file" in error.message


@pytest.mark.parametrize("spoil", ["version", "foreign"])
async def test_a_plan_of_another_tensorrt_is_to_be_built_again(folder, tmp_path: Path, spoil: str):
    load = by_tensorrt(folder.load(*identity("FP32")))
    await built(load, tmp_path / "plan")
    content = (tmp_path / "plan").read_bytes()
    content = content.replace(b"10.3.0", b"10.4.0") if spoil == "version" else b"nothing of tensorrt"
    (tmp_path / "plan").write_bytes(content)
    file = FileRef("plan", len(content), sha256(content).hexdigest())
    error = await refusal(msgspec.structs.replace(load, derived=Derived(str(tmp_path), file)))
    assert error.code is Code.DERIVED_UNUSABLE
    words = "not compatible with this" if spoil == "version" else "magicTag does not match"
    assert f"tensorrt does not take the plan: Error Code {6 if spoil == 'version' else 1}" in error.message
    assert words in error.message


@pytest.mark.parametrize(
    ("call", "after", "found"),
    [
        ("launch", 1, "for TensorRT: [builder.cpp::build::1] Error Code 4: OutOfMemory"),
        ("launch", 2, "for TensorRT: Requested amount of GPU memory could not be allocated."),
        ("cuMemAlloc_v2", 1, "for the model's inputs and outputs: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2)"),
    ],
    ids=["building", "a context", "the largest batch"],
)
async def test_a_gpu_that_is_full_may_be_tried_again_later(nvidia: Nvidia, folder, call: str, after: int, found: str):
    load = by_tensorrt(folder.load(*identity("FP32")))
    nvidia.fail(call, OUT_OF_MEMORY, after)
    error = await refusal(load)
    assert error.code is Code.MEMORY_SHORT
    assert found in error.message
    assert "max_batch_size" in error.hint
    nvidia.mend()
    async with worker(load):
        pass


async def test_room_for_the_largest_batch_is_taken_as_it_loads(nvidia: Nvidia, folder, batch_of: Callable):
    """Two tensors of 8 rows of 12 bytes: nothing more is asked for when a full batch comes."""
    load = by_tensorrt(folder.load(*identity("FP32")))
    nvidia.fail("cuMemAlloc_v2", OUT_OF_MEMORY, after=2)
    sent = np.ones((8, 3), np.float32)
    async with worker(load) as started:
        (answer,) = await batch_of(load, [{"x": sent}]).by(started)
    assert np.array_equal(answer["y"], sent)


@pytest.mark.parametrize(
    ("call", "code", "after", "found"),
    [
        ("cuMemcpyHtoDAsync_v2", 1, 0, "the GPU failed: cuMemcpyHtoDAsync_v2"),
        ("cuMemcpyDtoHAsync_v2", 1, 0, "the GPU failed: cuMemcpyDtoHAsync_v2"),
        ("launch", 1, 3, "tensorrt failed: [executionContext.cpp::call::1] Error Code 3: Cask"),
    ],
)
async def test_an_inference_that_fails_is_told_and_the_next_one_is_answered(
    nvidia: Nvidia, folder, batch_of: Callable, call: str, code: int, after: int, found: str
):
    load = by_tensorrt(folder.load(*identity("FP32")))
    nvidia.fail(call, code, after, times=1)
    sent = np.ones((1, 3), np.float32)
    async with worker(load) as started:
        (failed,) = await batch_of(load, [{"x": sent}]).by(started)
        assert isinstance(failed, Failed)
        assert failed.code == Code.INFERENCE_FAILED
        assert found in failed.message
        (answer,) = await batch_of(load, [{"x": sent}]).by(started)
    assert np.array_equal(answer["y"], sent)


async def test_rows_for_which_there_is_no_plan_are_the_callers_fault(folder, batch_of: Callable):
    load = by_tensorrt(folder.load(*identity("FP32"), max_batch_size=4))
    async with worker(load) as started:
        (failed,) = await batch_of(load, [{"x": np.ones((5, 3), np.float32)}]).by(started)
        (answer,) = await batch_of(load, [{"x": np.ones((4, 3), np.float32)}]).by(started)
    assert failed.code == Code.INVALID_TENSOR
    assert "input 'x' has the shape [5, 3], for which tensorrt has no plan: [execution" in failed.message
    assert answer["y"].shape == (4, 3)


@pytest.mark.parametrize("call", ["launch", "cuMemcpyHtoDAsync_v2", "cuStreamSynchronize"])
async def test_a_gpu_that_is_lost_to_the_process_ends_it(
    nvidia: Nvidia, folder, batch_of: Callable, capfd: pytest.CaptureFixture[str], call: str
):
    """As CUDA's errors are after which each call fails: only another process can go on."""
    load = by_tensorrt(folder.load(*identity("FP32")))
    nvidia.fail(call, ILLEGAL_ADDRESS, after=3 if call == "launch" else 0)
    async with worker(load) as started:
        with pytest.raises(EdgedError) as caught:
            await batch_of(load, [{"x": np.ones((1, 3), np.float32)}]).by(started)
        assert caught.value.code is Code.WORKER_CRASHED
        assert "exit status 1" in caught.value.message
    assert "the GPU cannot be used by this process any more" in capfd.readouterr().err
    nvidia.mend()
    async with worker(load) as started:
        (answer,) = await batch_of(load, [{"x": np.ones((1, 3), np.float32)}]).by(started)
    assert answer["y"].tolist() == [[1, 1, 1]]
