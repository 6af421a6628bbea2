"""Small bundles made on the spot: models that do one thing, as ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edged.bundle.folder import pack

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

Tensor = tuple[str, str, Sequence[int]]


def onnx_model(nodes: Sequence[onnx.NodeProto], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
    """A model of `nodes`; a dimension of -1 is free. Tensors are (name, datatype, shape)."""

    def value(tensor: Tensor) -> onnx.ValueInfoProto:
        name, datatype, shape = tensor
        dims = [size if size >= 0 else f"{name}_{axis}" for axis, size in enumerate(shape)]
        return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], dims)

    graph = helper.make_graph(list(nodes), "test", [value(each) for each in inputs], [value(each) for each in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def make_bundle(
    folder: Path,
    model: bytes,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    name: str,
    revision: int = 1,
    max_batch_size: int = 8,
    extra: str = "",
    runtime: str = "onnxruntime",
    file: str = "model.onnx",
    more: Mapping[str, bytes] | None = None,
) -> Path:
    """A packed bundle with one variant `cpu`; `extra` is appended to its bundle.toml, `more` are other files."""

    def tensors(kind: str, specs: Sequence[Tensor]) -> str:
        return "".join(
            f'[[{kind}]]\nname = "{name}"\ndatatype = "{datatype}"\nshape = {list(shape)}\n'
            for name, datatype, shape in specs
        )

    folder.mkdir(parents=True)
    for path, content in {file: model, **(more or {})}.items():
        (folder / path).write_bytes(content)
    (folder / "bundle.toml").write_text(
        f'name = "{name}"\nrevision = {revision}\nmax_batch_size = {max_batch_size}\n'
        + tensors("inputs", inputs)
        + tensors("outputs", outputs)
        + f'[[variants]]\nname = "cpu"\nruntime = "{runtime}"\nfile = "{file}"\n'
        + extra
    )
    pack(folder)
    return folder


def identity_bundle(folder: Path, datatype: str, *, name: str = "", max_batch_size: int = 8) -> Path:
    """A model `identity-<datatype>` with input `x` and output `y` of shape [-1, -1], which gives what it gets."""
    inputs, outputs = [("x", datatype, [-1, -1])], [("y", datatype, [-1, -1])]
    model = onnx_model([helper.make_node("Identity", ["x"], ["y"])], inputs, outputs)
    name = name or f"identity-{datatype.lower()}"
    return make_bundle(folder / name, model, inputs, outputs, name=name, max_batch_size=max_batch_size)


def sums_bundle(folder: Path) -> Path:
    """A model `sums`: FP32 inputs `a` and `b` of shape [-1, 3]; outputs `sum` and `difference` of the same shape."""
    tensors = [("a", "FP32", [-1, 3]), ("b", "FP32", [-1, 3])]
    outputs = [("sum", "FP32", [-1, 3]), ("difference", "FP32", [-1, 3])]
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    return make_bundle(folder / "sums", onnx_model(nodes, tensors, outputs), tensors, outputs, name="sums")
