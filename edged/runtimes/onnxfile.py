"""What an ONNX file must not hold: weights in other files. Engines would open whatever path such a tensor names."""

from __future__ import annotations

from collections.abc import Iterator

from edged import protowire
from edged.errors import Code, EdgedError

# Where a TensorProto can stand in a model, as paths of field numbers of onnx.proto: message → field → message.
_MESSAGES = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14


def refuse_external_data(model: bytes) -> None:
    """Raises EdgedError (load_failed) naming a tensor whose data lies in another file, or when it is no model."""
    try:
        for name in _external_tensors(model):
            raise EdgedError(
                Code.LOAD_FAILED,
                f"tensor {name!r} keeps its data in another file",
                "export the model with all its weights inside (onnx.save_model without save_as_external_data)",
            )
    except protowire.WireError as error:
        raise EdgedError(Code.LOAD_FAILED, f"the file is not an ONNX model: {error}") from error


def _external_tensors(model: bytes) -> Iterator[str]:
    waiting = [("Model", 0, len(model))]
    while waiting:
        kind, at, end = waiting.pop()
        name, external = "", False
        for number, wire, first, second in protowire.fields(model, at, end):
            inner = _MESSAGES[kind].get(number)
            if inner and wire == protowire.BYTES:
                waiting.append((inner, first, second))
            elif kind == "Tensor" and number == _TENSOR_NAME and wire == protowire.BYTES:
                name = model[first:second].decode(errors="replace")
            elif kind == "Tensor" and (
                number == _TENSOR_EXTERNAL_DATA
                or (number == _TENSOR_DATA_LOCATION and wire == protowire.VARINT and first == 1)
            ):
                external = True
        if external:
            yield name
