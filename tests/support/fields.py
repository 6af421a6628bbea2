"""Writes and splits protobuf's wire format by hand, right or wrong as asked; edged's own reader has no part in it."""

from __future__ import annotations

VARINT, I64, LEN, START_GROUP, END_GROUP, I32 = range(6)


def varint(value: int, *, length: int = 0) -> bytes:
    """`value` (not negative) as a varint; with `length`, padded to that many bytes."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < length:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, kind: int) -> bytes:
    """The bytes before a field's value."""
    return varint(number << 3 | kind)


def field(number: int, kind: int, value: bytes) -> bytes:
    """A field; a LEN value gets its length."""
    return tag(number, kind) + (varint(len(value)) if kind == LEN else b"") + value


def split(data: bytes) -> list[bytes]:
    """The fields of a sound message, each with its tag; what cannot be read comes as one last part."""
    parts = []
    at = 0
    while at < len(data):
        start = at
        key, at = _read(data, at)
        kind = key & 7
        if kind == VARINT:
            _, at = _read(data, at)
        elif kind == LEN:
            length, at = _read(data, at)
            at += length
        elif kind in (I64, I32):
            at += 8 if kind == I64 else 4
        else:
            at = len(data)
        parts.append(data[start:at])
    return parts


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, at
