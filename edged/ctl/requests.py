"""Requests of the inference protocol, made of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edged._pb.inference import grpc_service_pb2 as pb
from edged.errors import Code, EdgedError
from edged.types import Datatype, TensorSpec
from edged.worker.codec import encode

if TYPE_CHECKING:
    from numpy.typing import NDArray


def spec(tensor: pb.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    """What the daemon says of a tensor. Raises EdgedError (unsupported)."""
    if tensor.datatype not in set(Datatype):
        hint = "is edged newer than edgectl?"
        raise EdgedError(Code.UNSUPPORTED, f"input {tensor.name!r} is {tensor.datatype}, unknown to edgectl", hint)
    return TensorSpec(tensor.name, Datatype(tensor.datatype), tuple(tensor.shape))


def request(
    model: str, revision: int | None, arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]
) -> pb.ModelInferRequest:
    """A request with an array for each of `specs`."""
    made = pb.ModelInferRequest(model_name=model, model_version=str(revision or ""))
    for each in specs:
        array = arrays[each.name]
        made.inputs.add(name=each.name, datatype=each.datatype.value, shape=array.shape)
        made.raw_input_contents.append(bytes(encode(array, each.datatype)))
    return made
