"""Typed contents: the one filled field of an input's InferTensorContents, its elements uncopied. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from edged import protowire
from edged.errors import Code, EdgedError
from edged.protowire import BYTES, FIXED32, FIXED64, VARINT, WireError, encode_varint
from edged.rpc.bounds import too_many
from edged.serving.request import Contents, InputMeta
from edged.worker.messages import Form

# More bytes of varints in a request's contents are refused: each is looked at here, which takes 2 ms for so many.
_MAX_VARINT_BYTES = 1024 * 1024

# Makes 0 of the last byte of a varint, and 1 of those before it.
_CONTINUED = bytes(0x80) + b"\1" * 0x80

# InferTensorContents: field → (its name, the datatypes it carries).
_TYPED = {
    1: ("bool_contents", ("BOOL",)),
    2: ("int_contents", ("INT8", "INT16", "INT32")),
    3: ("int64_contents", ("INT64",)),
    4: ("uint_contents", ("UINT8", "UINT16", "UINT32")),
    5: ("uint64_contents", ("UINT64",)),
    6: ("fp32_contents", ("FP32",)),
    7: ("fp64_contents", ("FP64",)),
    8: ("bytes_contents", ("BYTES",)),
}
_SIZES = {6: 4, 7: 8}
_WIRE_TYPES = {**dict.fromkeys(range(1, 6), (VARINT, BYTES)), 6: (FIXED32, BYTES), 7: (FIXED64, BYTES), 8: (BYTES,)}
_RAW_ONLY = ("FP16", "BF16")


def read_contents(
    data: bytes, spans: Sequence[tuple[int, int]], meta: InputMeta, max_fields: int
) -> tuple[Contents | None, int]:
    """The filled field of the message in `spans` of `data`, None when all are empty; and how many fields were read.

    Raises EdgedError (invalid_tensor, invalid_argument) or WireError.
    """
    filled = 0
    walked = 0
    parts: list[bytes | memoryview] = []
    size = count = 0
    view = memoryview(data)
    for start, stop in spans:
        for number, kind, at, end in protowire.fields(data, start, stop):
            walked += 1
            if walked > max_fields:
                raise too_many()
            # A field in a wire type that is not its own is passed over, as protobuf does.
            if number not in _TYPED or kind not in _WIRE_TYPES[number] or (kind == BYTES and at == end and number != 8):
                continue
            if filled not in (0, number):
                both = " and ".join(sorted((_TYPED[filled][0], _TYPED[number][0])))
                raise EdgedError(
                    Code.INVALID_TENSOR, f"input {meta.name[:64]!r} has both {both}", "fill the one of its datatype"
                )
            filled = number
            if number == 8:
                parts += [(end - at).to_bytes(4, "little"), view[at:end]]
            elif number in _SIZES:
                if (end - at) % _SIZES[number]:
                    raise WireError(f"{_TYPED[number][0]} ends inside an element")
                parts.append(view[at:end])
            elif kind == VARINT:
                parts.append(encode_varint(at))
                count += 1
            else:
                size = bounded(size + end - at, meta)
                count += _count_varints(data[at:end], _TYPED[number][0])
                parts.append(view[at:end])
    if not filled:
        return None, walked
    field, datatypes = _TYPED[filled]
    if meta.datatype not in datatypes:
        wanted = next((name for name, kinds in _TYPED.values() if meta.datatype in kinds), "raw_input_contents")
        raise EdgedError(
            Code.INVALID_TENSOR,
            f"input {meta.name[:64]!r} is {meta.datatype[:16]!r} and came in {field}",
            f"it travels in {wanted}" + (" only" if meta.datatype in _RAW_ONLY else ""),
        )
    if filled in _SIZES or filled == 8:
        return Contents(Form.RAW, tuple(parts), -1), walked
    return Contents(Form.VARINT, tuple(parts), count), walked


def bounded(varint_bytes: int, meta: InputMeta) -> int:
    """`varint_bytes`, which the contents up to those of `meta` take. Raises EdgedError (invalid_tensor)."""
    if varint_bytes > _MAX_VARINT_BYTES:
        found = f"input {meta.name[:64]!r} brings the bool, int and uint contents above {_MAX_VARINT_BYTES} bytes"
        raise EdgedError(Code.INVALID_TENSOR, found, "give the tensors in raw_input_contents")
    return varint_bytes


def _count_varints(data: bytes, field: str) -> int:
    continued = data.translate(_CONTINUED)
    if continued[-1]:
        raise WireError(f"{field} ends inside an element")
    if b"\1" * 10 in continued:
        raise WireError(f"{field} has a varint of more than 10 bytes")
    return continued.count(0)
