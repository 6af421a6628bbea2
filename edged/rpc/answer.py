"""Writes the answer to an inference request, alone or in a stream; the parts that repeat are made once. Pure.

The messages are `ModelInferResponse` and `ModelStreamInferResponse` of `protos/inference/grpc_service.proto`; the field
numbers stand there.
"""

from __future__ import annotations

from functools import lru_cache

from edged.errors import EdgedError
from edged.protowire import BYTES, encode_bytes, encode_varint
from edged.rpc.parameters import bool_parameter, place_parameters, string_parameter
from edged.serving.request import Answer, Place
from edged.types import Level

_KEPT = 1024

_PARAMETERS = 4

# Triton marks so the last reply to a request of a stream, which here is the only one.
_FINAL = bool_parameter(_PARAMETERS, "triton_final_response", True)

# A result is doubtful by the bundle's own measure.
_REVIEW = bool_parameter(_PARAMETERS, "edged_review", True)


def write_answer(answer: Answer, identity: str, level: Level) -> bytes:
    """A ModelInferResponse."""
    return b"".join(_parts(answer, identity, level))


def write_stream_answer(answer: Answer, identity: str, level: Level) -> bytes:
    """A ModelStreamInferResponse with an answer."""
    parts = [*_parts(answer, identity, level), _FINAL]
    size = sum(map(len, parts))
    return b"".join((encode_varint(2 << 3 | BYTES) + encode_varint(size), *parts))


def write_stream_error(error: EdgedError, identity: str) -> bytes:
    """A ModelStreamInferResponse that says why there is no answer; its parameter `edged_code` has the stable code."""
    code = string_parameter(_PARAMETERS, "edged_code", error.code)
    named = encode_bytes(3, identity.encode()) if identity else b""
    message = str(error).encode(errors="replace")
    return encode_bytes(1, message) + encode_bytes(2, named + code + _FINAL)


def _parts(answer: Answer, identity: str, level: Level) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = [_head(answer.model, answer.revision, answer.variant, level, answer.degraded)]
    if answer.review:
        parts.append(_REVIEW)
    if identity:
        parts.append(encode_bytes(3, identity.encode()))
    parts += [_output_meta(output.name, output.datatype, output.shape, output.place) for output in answer.outputs]
    for output in answer.outputs:
        parts += [_raw_prefix(len(output.data)), output.data]
    return parts


@lru_cache(maxsize=_KEPT)
def _head(model: str, revision: int, variant: str, level: Level, degraded: bool) -> bytes:
    return b"".join(
        (
            encode_bytes(1, model.encode()),
            encode_bytes(2, str(revision).encode()),
            string_parameter(_PARAMETERS, "edged_variant", variant),
            string_parameter(_PARAMETERS, "edged_level", level),
            bool_parameter(_PARAMETERS, "edged_degraded", degraded),
        )
    )


@lru_cache(maxsize=_KEPT)
def _output_meta(name: str, datatype: str, shape: tuple[int, ...], place: Place | None) -> bytes:
    sizes = b"".join(encode_varint(size) for size in shape)
    packed = encode_bytes(3, sizes) if sizes else b""
    where = place_parameters(_PARAMETERS, place) if place is not None else b""
    return encode_bytes(5, encode_bytes(1, name.encode()) + encode_bytes(2, datatype.encode()) + packed + where)


@lru_cache(maxsize=_KEPT)
def _raw_prefix(size: int) -> bytes:
    return encode_varint(6 << 3 | BYTES) + encode_varint(size)
