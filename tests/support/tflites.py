"""Tiny TFLite models, written field by field as tflite/schema/schema.fbs says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import flatbuffers
import tflite

# What the compiler for the Edge TPU puts in place of the operators that run there.
EDGETPU_OPERATOR = "edgetpu-custom-op"

# The name, datatype and shape of a tensor; -1 is a free dimension.
Tensor = tuple[str, str, Sequence[int]]

_TYPES = {
    "FP32": tflite.TensorType.FLOAT32,
    "FP16": tflite.TensorType.FLOAT16,
    "INT32": tflite.TensorType.INT32,
    "UINT8": tflite.TensorType.UINT8,
    "INT64": tflite.TensorType.INT64,
    "BYTES": tflite.TensorType.STRING,
    "BOOL": tflite.TensorType.BOOL,
    "INT16": tflite.TensorType.INT16,
    "COMPLEX64": tflite.TensorType.COMPLEX64,
    "INT8": tflite.TensorType.INT8,
    "FP64": tflite.TensorType.FLOAT64,
    "UINT64": tflite.TensorType.UINT64,
    "UINT32": tflite.TensorType.UINT32,
    "UINT16": tflite.TensorType.UINT16,
    # Newer than the package.
    "INT4": 17,
    "BF16": 18,
}

# Fields of a model that are newer than the package: external_buffer_groups and external_buffers.
_FIELDS, _EXTERNAL_GROUPS, _EXTERNAL_BUFFERS = 10, 8, 9


def tflite_model(
    operator: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    takes: Sequence[int] = (),
    told: bytes = b"",
    splits: int = 0,
    scale: float = 0,
    external: str = "",
) -> bytes:
    """A model of one operator: by its name in the schema, or by a name of its own where that has none.

    `takes`: which inputs the operator takes, all of them unless told. `told`: what an operator of its own is given.
    `splits`: into how many parts SPLIT splits. `scale`: of all tensors, if they are quantised; the zero point is 0.
    `external`: another file that is said to hold weights.
    """
    builder = flatbuffers.Builder(1024)
    tensors = _offsets(builder, [_tensor(builder, tensor, scale) for tensor in (*inputs, *outputs)])
    places = range(len(inputs) + len(outputs))
    given, made = places[: len(inputs)], places[len(inputs) :]
    options = (
        _reshape(builder, outputs[0][2]) if operator == "RESHAPE" else _split(builder, splits) if splits else (0, 0)
    )
    node = _node(builder, takes or given, made, told, *options)
    nodes = _offsets(builder, [node])
    first, last = _numbers(builder, given), _numbers(builder, made)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensors)
    tflite.SubGraphAddInputs(builder, first)
    tflite.SubGraphAddOutputs(builder, last)
    tflite.SubGraphAddOperators(builder, nodes)
    graphs = _offsets(builder, [tflite.SubGraphEnd(builder)])
    codes = _offsets(builder, [_code(builder, operator)])
    tflite.BufferStart(builder)
    buffers = _offsets(builder, [tflite.BufferEnd(builder)])
    elsewhere = _elsewhere(builder, external) if external else ()
    builder.StartObject(_FIELDS)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, codes)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, buffers)
    for field, offset in elsewhere:
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    return bytes(builder.Output())


def doubling(shape: Sequence[int], datatype: str = "FP32", **more: float) -> bytes:
    """x + x = y."""
    return tflite_model("ADD", [("x", datatype, shape)], [("y", datatype, shape)], takes=(0, 0), **more)


def compiled(told: bytes = b"") -> bytes:
    """As the compiler for the Edge TPU makes them: x to y, of INT8, by its operator alone, which is told `told`."""
    return tflite_model(EDGETPU_OPERATOR, [("x", "INT8", [1, 4])], [("y", "INT8", [1, 4])], told=told)


def _tensor(builder: flatbuffers.Builder, tensor: Tensor, scale: float) -> int:
    name, datatype, shape = tensor
    written = builder.CreateString(name)
    # A free dimension stands as 1 in the shape, and as -1 in the signature.
    sizes = _numbers(builder, [max(size, 1) for size in shape])
    signature = _numbers(builder, shape)
    quantization = 0
    if scale:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(scale)
        scales = builder.EndVector()
        builder.StartVector(8, 1, 8)
        builder.PrependInt64(0)
        zeros = builder.EndVector()
        tflite.QuantizationParametersStart(builder)
        tflite.QuantizationParametersAddScale(builder, scales)
        tflite.QuantizationParametersAddZeroPoint(builder, zeros)
        quantization = tflite.QuantizationParametersEnd(builder)
    tflite.TensorStart(builder)
    tflite.TensorAddName(builder, written)
    tflite.TensorAddShape(builder, sizes)
    tflite.TensorAddShapeSignature(builder, signature)
    tflite.TensorAddType(builder, _TYPES[datatype])
    tflite.TensorAddQuantization(builder, quantization)
    return int(tflite.TensorEnd(builder))


def _node(
    builder: flatbuffers.Builder, takes: Iterable[int], gives: Iterable[int], told: bytes, kind: int, options: int
) -> int:
    first, last = _numbers(builder, takes), _numbers(builder, gives)
    blob = builder.CreateByteVector(told) if told else 0
    tflite.OperatorStart(builder)
    tflite.OperatorAddInputs(builder, first)
    tflite.OperatorAddOutputs(builder, last)
    tflite.OperatorAddCustomOptions(builder, blob)
    tflite.OperatorAddBuiltinOptionsType(builder, kind)
    tflite.OperatorAddBuiltinOptions(builder, options)
    return int(tflite.OperatorEnd(builder))


def _reshape(builder: flatbuffers.Builder, shape: Sequence[int]) -> tuple[int, int]:
    sizes = _numbers(builder, shape)
    tflite.ReshapeOptionsStart(builder)
    tflite.ReshapeOptionsAddNewShape(builder, sizes)
    return tflite.BuiltinOptions.ReshapeOptions, int(tflite.ReshapeOptionsEnd(builder))


def _split(builder: flatbuffers.Builder, parts: int) -> tuple[int, int]:
    tflite.SplitOptionsStart(builder)
    tflite.SplitOptionsAddNumSplits(builder, parts)
    return tflite.BuiltinOptions.SplitOptions, int(tflite.SplitOptionsEnd(builder))


def _code(builder: flatbuffers.Builder, operator: str) -> int:
    number = getattr(tflite.BuiltinOperator, operator, tflite.BuiltinOperator.CUSTOM)
    own = builder.CreateString(operator) if number == tflite.BuiltinOperator.CUSTOM else 0
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, min(number, 127))
    tflite.OperatorCodeAddBuiltinCode(builder, number)
    tflite.OperatorCodeAddCustomCode(builder, own)
    tflite.OperatorCodeAddVersion(builder, 1)
    return int(tflite.OperatorCodeEnd(builder))


def _elsewhere(builder: flatbuffers.Builder, file: str) -> list[tuple[int, int]]:
    """The fields that say of another file; ExternalBufferGroup has its name, ExternalBuffer an id and a group."""
    name = builder.CreateString(file)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    groups = _offsets(builder, [builder.EndObject()])
    builder.StartObject(5)
    builder.PrependUint32Slot(0, 1, 0)
    return [(_EXTERNAL_GROUPS, groups), (_EXTERNAL_BUFFERS, _offsets(builder, [builder.EndObject()]))]


def _offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _numbers(builder: flatbuffers.Builder, numbers: Iterable[int]) -> int:
    values = list(numbers)
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return int(builder.EndVector())
