"""Messages ↔ arrays: the elements of the protocol's tensors as numpy arrays and back. Child's end only."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import Code, EdgedError
from edged.types import Datatype
from edged.worker.messages import Form

# BF16 has no numpy type: its bits pass as uint16.
DTYPES: dict[Datatype, np.dtype[Any]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype("<u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("<i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.BF16: np.dtype("<u2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    Datatype.BYTES: np.dtype(object),
}

_LENGTH = struct.Struct("<I")


def decode(name: str, datatype: Datatype, shape: Sequence[int], form: int, data: memoryview) -> NDArray[Any]:
    """The array that `data` holds, without a copy where it is raw and of fixed size.

    Raises EdgedError (invalid_tensor) naming the tensor, what came and what was wanted.
    """
    count = math.prod(shape)
    if datatype is Datatype.BYTES:
        return _decode_bytes(name, data, count).reshape(shape)
    if form == Form.VARINT:
        return _decode_varints(name, datatype, data, count).reshape(shape)
    wanted = count * datatype.size
    if len(data) != wanted:
        raise EdgedError(
            Code.INVALID_TENSOR,
            f"input {name!r} has {len(data)} bytes; {datatype} of shape {list(shape)} takes {wanted}",
        )
    if datatype is Datatype.BOOL:  # any other byte than 0 and 1 is no bool, and undefined behaviour in an engine
        raw = np.frombuffer(data, np.uint8)
        if raw.size and raw.max() > 1:
            raise EdgedError(Code.INVALID_TENSOR, f"input {name!r} has a BOOL element that is neither 0 nor 1")
        return raw.view(np.bool_).reshape(shape)
    return np.frombuffer(data, DTYPES[datatype]).reshape(shape)


def _decode_bytes(name: str, data: memoryview, count: int) -> NDArray[Any]:
    out = np.empty(count, object)
    at, end = 0, len(data)
    for index in range(count):
        if at + 4 > end:
            raise EdgedError(
                Code.INVALID_TENSOR, f"input {name!r} ends at element {index}; its shape takes {count} elements"
            )
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if at + length > end:
            raise EdgedError(
                Code.INVALID_TENSOR,
                f"input {name!r}: element {index} is said to be {length} bytes long, {end - at} are left",
            )
        out[index] = bytes(data[at : at + length])
        at += length
    if at != end:
        raise EdgedError(
            Code.INVALID_TENSOR, f"input {name!r} has {end - at} bytes more than its {count} elements take"
        )
    return out


def _decode_varints(name: str, datatype: Datatype, data: memoryview, count: int) -> NDArray[Any]:
    """Packed varints, all elements of one length at a time."""
    raw = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(raw < 0x80)
    if raw.size and raw[-1] >= 0x80:
        raise EdgedError(Code.INVALID_TENSOR, f"input {name!r} ends inside element {len(last)}")
    if len(last) != count:
        raise EdgedError(Code.INVALID_TENSOR, f"input {name!r} has {len(last)} elements; its shape takes {count}")
    first = np.concatenate((np.zeros(1, np.int64), last[:-1] + 1)) if count else last
    lengths = last - first + 1
    values = np.zeros(count, np.uint64)
    for place in range(int(lengths.max(initial=0))):
        some = np.flatnonzero(lengths > place)
        values[some] |= (raw[first[some] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    if datatype is Datatype.BOOL:
        return np.not_equal(values, 0)
    if datatype is Datatype.UINT64:
        return values
    signed = values.view(np.int64)
    if datatype is Datatype.INT64:
        return signed
    # protobuf keeps the low 32 bits of what is sent for an int32 or uint32.
    low = values.astype(np.uint32)
    exact = low if datatype in (Datatype.UINT8, Datatype.UINT16, Datatype.UINT32) else low.view(np.int32)
    dtype = DTYPES[datatype]
    limits = np.iinfo(dtype)
    outside = np.flatnonzero((exact < limits.min) | (exact > limits.max))
    if len(outside):
        raise EdgedError(
            Code.INVALID_TENSOR,
            f"input {name!r}: element {outside[0]} is {exact[outside[0]]}, which is no {datatype}",
        )
    return exact.astype(dtype)


def encode(array: NDArray[Any], datatype: Datatype) -> memoryview | bytes:
    """The raw contents of an output, without a copy where it is contiguous and of fixed size."""
    if datatype is Datatype.BYTES:
        return b"".join(_LENGTH.pack(len(element)) + element for element in array.reshape(-1))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
