"""Makes the models of the benchmarks, with weights from fixed seeds.

Started as `python -m benchmarks.programs.models FOLDER SMALLS`; writes an index of what it made.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import INDEX, NAMES, PATIENT, REPO, SMALL, Model
from edged._pb.inference import grpc_service_pb2 as pb
from edged.bundle.folder import pack, read_manifest

SEED = 20260101
TYPES = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8}
FRAME = (1080, 1920, 3)
EVERY = 16


class Tensor(NamedTuple):
    """An input or output; -1 is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Net:
    """An ONNX graph that grows node by node."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def weights(self, *shape: int) -> str:
        """A constant of normally distributed numbers, scaled so that activations neither grow nor vanish."""
        fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        values = self._random.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))
        return self.constant(values)

    def constant(self, values: NDArray[Any]) -> str:
        """A constant."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node; gives the name of its output."""
        output = output or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def model(self, wanted: Tensor, given: Tensor) -> bytes:
        """The whole model, with one input and one output."""

        def value(tensor: Tensor) -> onnx.ValueInfoProto:
            dims = [size if size >= 0 else "n" for size in tensor.shape]
            return helper.make_tensor_value_info(tensor.name, TYPES[tensor.datatype], dims)

        graph = helper.make_graph(self._nodes, "bench", [value(wanted)], [value(given)], initializer=self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model.SerializeToString()


class Recipe(NamedTuple):
    """A model before it is a bundle."""

    onnx: bytes
    wanted: Tensor
    given: Tensor
    max_batch_size: int
    max_delay_us: int = 0


def identity() -> Recipe:
    """Sixteen numbers in, the same out: nothing is computed, so all that is measured is the way there and back."""
    net = Net(SEED)
    net.add("Identity", "x", output="y")
    wanted, given = Tensor("x", "FP32", (-1, 16)), Tensor("y", "FP32", (-1, 16))
    return Recipe(net.model(wanted, given), wanted, given, 64)


def mlp(seed: int = SEED) -> Recipe:
    """64 → 128 → 64 → 10, with ReLU between: 17,000 multiplications."""
    net = Net(seed)
    last = "x"
    for index, (before, after) in enumerate(((64, 128), (128, 64), (64, 10))):
        bias = net.constant(np.zeros(after, np.float32))
        final = index == 2
        last = net.add("Gemm", last, net.weights(before, after), bias, output="y" if final else "")
        if not final:
            last = net.add("Relu", last)
    wanted, given = Tensor("x", "FP32", (-1, 64)), Tensor("y", "FP32", (-1, 10))
    return Recipe(net.model(wanted, given), wanted, given, 64)


def camera() -> Recipe:
    """The mean colour of every 16th pixel of every 16th line of a frame: 6.2 MB in, 12 bytes out, little to compute."""
    net = Net(SEED)
    ends = np.array(FRAME[:2], np.int64)
    picked = net.add(
        "Slice",
        "frame",
        net.constant(np.zeros(2, np.int64)),
        net.constant(ends),
        net.constant(np.array([1, 2], np.int64)),
        net.constant(np.full(2, EVERY, np.int64)),
    )
    numbers = net.add("Cast", picked, to=TensorProto.FLOAT)
    net.add("ReduceMean", numbers, output="mean", axes=[1, 2], keepdims=0)
    wanted, given = Tensor("frame", "UINT8", (-1, *FRAME)), Tensor("mean", "FP32", (-1, 3))
    return Recipe(net.model(wanted, given), wanted, given, 2)


def convnet() -> Recipe:
    """ResNet-18 without its normalizations, which a deployed one has in its kernels: 1.8 billion multiplications.

    K. He et al., Deep Residual Learning for Image Recognition, 2015, table 1.
    """
    net = Net(SEED)

    def conv(last: str, before: int, after: int, size: int, stride: int) -> str:
        kernel, pad = net.weights(after, before, size, size), size // 2
        return net.add("Conv", last, kernel, strides=[stride, stride], pads=[pad] * 4)

    last = net.add("Relu", conv("image", 3, 64, 7, 2))
    last = net.add("MaxPool", last, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    before = 64
    for after, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        inner = conv(net.add("Relu", conv(last, before, after, 3, stride)), after, after, 3, 1)
        beside = last if before == after else conv(last, before, after, 1, stride)
        last = net.add("Relu", net.add("Add", inner, beside))
        before = after
    pooled = net.add("Flatten", net.add("GlobalAveragePool", last))
    net.add("MatMul", pooled, net.weights(before, 1000), output="scores")
    wanted, given = Tensor("image", "FP32", (-1, 3, 224, 224)), Tensor("scores", "FP32", (-1, 1000))
    return Recipe(net.model(wanted, given), wanted, given, 8)


def patient_convnet() -> Recipe:
    """The same, whose requests may wait until eight are there."""
    return convnet()._replace(max_delay_us=500_000)


RECIPES = {"identity": identity, "mlp": mlp, "camera": camera, "convnet": convnet, PATIENT: patient_convnet}


def make_bundle(folder: Path, name: str, recipe: Recipe) -> None:
    """Writes and packs a bundle of one variant."""

    def table(kind: str, tensor: Tensor) -> str:
        shape = list(tensor.shape)
        return f'[[{kind}]]\nname = "{tensor.name}"\ndatatype = "{tensor.datatype}"\nshape = {shape}\n'

    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(recipe.onnx)
    (folder / "bundle.toml").write_text(
        f'name = "{name}"\nrevision = 1\nmax_batch_size = {recipe.max_batch_size}\n'
        + table("inputs", recipe.wanted)
        + table("outputs", recipe.given)
        + (f"[queue]\nmax_delay_us = {recipe.max_delay_us}\n" if recipe.max_delay_us else "")
        + '[[variants]]\nname = "cpu"\nruntime = "onnxruntime"\nfile = "model.onnx"\n'
    )
    pack(folder)


def request_for(name: str, wanted: Tensor) -> bytes:
    """One row of random content."""
    shape = (1, *wanted.shape[1:])
    random = np.random.default_rng(SEED)
    if wanted.datatype == "UINT8":
        content: NDArray[Any] = random.integers(0, 256, shape, np.uint8)
    else:
        content = random.random(shape, np.float32)
    request = pb.ModelInferRequest(model_name=name)
    request.inputs.add(name=wanted.name, datatype=wanted.datatype, shape=shape)
    request.raw_input_contents.append(content.tobytes())
    return request.SerializeToString()


def answer_bytes(name: str, variant: str, given: Tensor) -> int:
    """How long edged's answer to one row is."""
    answer = pb.ModelInferResponse(model_name=name, model_version="1")
    answer.parameters["edged_variant"].string_param = variant
    answer.parameters["edged_level"].string_param = "nominal"
    answer.parameters["edged_degraded"].bool_param = False
    answer.outputs.add(name=given.name, datatype=given.datatype, shape=(1, *given.shape[1:]))
    answer.raw_output_contents.append(bytes(4 * int(np.prod(given.shape[1:]))))
    return len(answer.SerializeToString())


def describe(folder: Path, bundle: Path) -> Model:
    """Writes the request for a packed bundle, and says where everything is."""
    manifest = read_manifest(bundle)
    inputs, outputs = (
        [Tensor(spec.name, str(spec.datatype), tuple(spec.shape)) for spec in specs]
        for specs in (manifest.inputs, manifest.outputs)
    )
    variant = manifest.variants[0]
    request = folder / f"{manifest.name}.request"
    content = request_for(manifest.name, inputs[0])
    request.write_bytes(content)
    return Model(
        name=manifest.name,
        bundle=str(bundle),
        onnx=str(bundle / variant.file),
        model_bytes=(bundle / variant.file).stat().st_size,
        request=str(request),
        request_bytes=len(content),
        answer_bytes=answer_bytes(manifest.name, variant.name, outputs[0]),
    )


def build(folder: Path, smalls: int) -> list[Model]:
    """All of them, below `folder`."""
    made = []
    for name in (*NAMES, PATIENT):
        bundle = folder / name / "1"
        if name in RECIPES:
            make_bundle(bundle, name, RECIPES[name]())
        else:
            shutil.copytree(REPO / "bootc/models" / name / "1", bundle)
        made.append(bundle)
    for number in range(1, smalls + 1):
        name = f"{SMALL}-{number}"
        make_bundle(folder / name / "1", name, mlp(SEED + number))
        made.append(folder / name / "1")
    return [describe(folder, bundle) for bundle in made]


def main(arguments: Sequence[str]) -> None:
    """Builds, and writes the index."""
    folder = Path(arguments[0])
    (folder / INDEX).write_bytes(msgspec.json.encode(build(folder, int(arguments[1]))))


if __name__ == "__main__":
    main(sys.argv[1:])
