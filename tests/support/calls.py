"""Inference calls from outside: requests made by hand, elements packed by `struct`, refusals as they come."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import pytest

from edged._pb.inference import grpc_service_pb2 as pb
from support.daemon import PATIENCE_S, Daemon

Input = pb.ModelInferRequest.InferInputTensor
Requested = pb.ModelInferRequest.InferRequestedOutputTensor

# Datatype → how struct packs an element. FP16 and BF16 travel as bits: `H`.
FORMATS = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "H",
    "BF16": "H",
    "FP32": "f",
    "FP64": "d",
}

# Datatype → its field of typed contents, and elements that include the ends of its range.
TYPED: dict[str, tuple[str, Sequence[Any]]] = {
    "BOOL": ("bool_contents", [True, False, True, True]),
    "INT8": ("int_contents", [-128, -1, 0, 127]),
    "INT16": ("int_contents", [-(2**15), -1, 300, 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), -1, 70_000, 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), -1, 2**40, 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 1, 128, 255]),
    "UINT16": ("uint_contents", [0, 300, 2**15, 2**16 - 1]),
    "UINT32": ("uint_contents", [0, 70_000, 2**31, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**40, 2**63, 2**64 - 1]),
    "FP32": ("fp32_contents", [-math.inf, -0.0, 1.5, 2.0**-149]),
    "FP64": ("fp64_contents", [math.inf, -0.0, 0.1, 5e-324]),
    "BYTES": ("bytes_contents", [b"", "grüße 🌍".encode(), b"a\0b", b"x" * 1000]),
}
# What has no typed contents, as bits: zero, one, the largest, a NaN of its own.
RAW_ONLY: dict[str, Sequence[int]] = {
    "FP16": [0x0000, 0x3C00, 0x7BFF, 0x7E01],
    "BF16": [0x0000, 0x3F80, 0x7F7F, 0x7FC1],
}
ELEMENTS = {name: values for name, (_, values) in TYPED.items()} | RAW_ONLY


class Refusal(NamedTuple):
    """How a call was refused."""

    status: grpc.StatusCode
    code: str
    message: str


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """Elements as raw contents."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def tensor(name: str, datatype: str, shape: Sequence[int], **contents: Sequence[Any]) -> Input:
    """An input; `contents`: the fields of its InferTensorContents."""
    filled = pb.InferTensorContents(**contents) if contents else None
    return Input(name=name, datatype=datatype, shape=shape, contents=filled)


def request(
    model: str, *inputs: Input, raw: Sequence[bytes] = (), outputs: Sequence[str] = (), **fields: Any
) -> pb.ModelInferRequest:
    """A ModelInferRequest."""
    return pb.ModelInferRequest(
        model_name=model,
        inputs=inputs,
        raw_input_contents=raw,
        outputs=[Requested(name=name) for name in outputs],
        **fields,
    )


def identity(datatype: str) -> str:
    """The name of the model that gives back what it gets."""
    return f"identity-{datatype.lower()}"


def refusal(error: grpc.RpcError) -> Refusal:
    """What a failed call says."""
    trailing = dict(error.trailing_metadata() or ())
    return Refusal(error.code(), trailing.get("edged-code", ""), error.details() or "")


def refused(daemon: Daemon, asked: pb.ModelInferRequest) -> Refusal:
    """Sends a request that must be refused."""
    with pytest.raises(grpc.RpcError) as raised:
        daemon.infer(asked)
    return refusal(raised.value)


def infer_bytes(daemon: Daemon, data: bytes) -> pb.ModelInferResponse:
    """ModelInfer with a message that is already written. Raises grpc.RpcError."""
    call = daemon.channel().unary_unary(
        "/inference.GRPCInferenceService/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
    )
    return call(data, timeout=PATIENCE_S)
