"""Reads the protobuf wire format without knowing a schema, and without copying.

Source: protobuf.dev/programming-guides/encoding. Groups, which proto3 cannot write, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Tags and lengths are 32-bit: protobuf refuses them padded beyond 5 bytes.
_LONGEST_HEAD = 5

Field = tuple[int, int, int, int]


class WireError(ValueError):
    """The bytes are not a protobuf message."""


def varint(data: bytes, at: int, end: int, longest: int = 10) -> tuple[int, int]:
    """The unsigned 64-bit varint of `longest` bytes at most at `at`, and the position behind it. Raises WireError."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift == 7 * longest:
            raise WireError(f"a varint is longer than {longest} bytes")
    raise WireError("the message ends inside a varint")


def fields(data: bytes, at: int = 0, end: int = -1) -> Iterator[Field]:
    """The fields of the message data[at:end] in order: (number, wire type, a, b).

    For BYTES, FIXED32 and FIXED64 the value is data[a:b]; for VARINT `a` is the value, and data[…:b] ends with it.
    Raises WireError as soon as the bytes make no sense.
    """
    if end < 0:
        end = len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = varint(data, at - 1, end, _LONGEST_HEAD)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"field number {number} does not exist")
        if kind == BYTES:
            if at >= end:
                raise WireError("the message ends inside a field")
            length = data[at]
            at += 1
            if length >= 0x80:
                length, at = varint(data, at - 1, end, _LONGEST_HEAD)
            stop = at + length
            if stop > end:
                raise WireError(f"field {number} is said to be {length} bytes long, {end - at} are left")
            yield number, kind, at, stop
            at = stop
        elif kind == VARINT:
            value, at = varint(data, at, end)
            yield number, kind, value, at
        elif kind in (FIXED64, FIXED32):
            stop = at + (8 if kind == FIXED64 else 4)
            if stop > end:
                raise WireError("the message ends inside a field")
            yield number, kind, at, stop
            at = stop
        else:
            raise WireError(f"field {number} has wire type {kind}, which is not used here")


def signed(value: int) -> int:
    """What a varint of 64 bits stands for where the field is an int32 or int64."""
    return value - (1 << 64) if value >> 63 else value


def text(data: bytes, at: int, end: int, what: str) -> str:
    """The string data[at:end]; `what` it is, for the error. Raises WireError where it is no UTF-8."""
    try:
        return data[at:end].decode()
    except UnicodeDecodeError as error:
        raise WireError(f"{what} is not UTF-8 text") from error


def encode_varint(value: int) -> bytes:
    """`value` (0 ≤ value < 2⁶⁴) as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_bytes(number: int, value: bytes) -> bytes:
    """A length-delimited field: a string, bytes or message."""
    return encode_varint(number << 3 | BYTES) + encode_varint(len(value)) + value
