"""The wire format's reader, held against protobuf itself and against an independent writer."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import fields as wire

from edged import protowire
from edged.protowire import WireError

NUMBERS = st.integers(1, 2**29 - 1)
VALUES = st.one_of(
    st.tuples(st.just(wire.VARINT), st.integers(0, 2**64 - 1)),
    st.tuples(st.just(wire.I64), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(wire.LEN), st.binary(max_size=300)),
    st.tuples(st.just(wire.I32), st.binary(min_size=4, max_size=4)),
)


def write(number: int, kind: int, value: int | bytes) -> bytes:
    return wire.field(number, kind, wire.varint(value) if isinstance(value, int) else value)


@given(st.lists(st.tuples(NUMBERS, VALUES), max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_every_field_is_found_at_its_place(
    wanted: list[tuple[int, tuple[int, int | bytes]]], before: int, after: int
) -> None:
    """Also within a longer buffer, of whose rest nothing is read."""
    message = b"".join(write(number, *value) for number, value in wanted)
    data = b"\xff" * before + message + b"\xff" * after
    found = [
        (number, (kind, at if kind == protowire.VARINT else data[at:end]))
        for number, kind, at, end in protowire.fields(data, before, before + len(message))
    ]
    assert found == wanted


@given(st.lists(st.tuples(NUMBERS, VALUES), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_a_message_cut_within_a_field_is_refused(wanted: list[tuple[int, tuple[int, int | bytes]]], seed: int) -> None:
    parts = [write(number, *value) for number, value in wanted]
    data = b"".join(parts)[: -Random(seed).randint(1, len(parts[-1]) - 1)]
    with pytest.raises(WireError):
        list(protowire.fields(data))


@given(st.integers(0, 2**64 - 1))
def test_varints_are_written_as_short_as_can_be_and_read_back(value: int) -> None:
    written = protowire.encode_varint(value)
    assert written == wire.varint(value)
    assert protowire.varint(written, 0, len(written)) == (value, len(written))


@given(st.integers(0, 2**35 - 1), st.integers(6, 10))
def test_a_padded_varint_has_the_same_value(value: int, length: int) -> None:
    padded = wire.varint(value, length=length)
    assert protowire.varint(padded, 0, len(padded)) == (value, length)


@given(NUMBERS, st.binary(max_size=300))
def test_bytes_fields_are_written_as_protobuf_reads_them(number: int, value: bytes) -> None:
    assert protowire.encode_bytes(number, value) == wire.field(number, wire.LEN, value)


REFUSED = {
    "an empty varint": (wire.tag(1, wire.VARINT), "ends inside a varint"),
    "a varint that goes on": (wire.tag(1, wire.VARINT) + b"\x80", "ends inside a varint"),
    "a varint of 11 bytes": (wire.tag(1, wire.VARINT) + b"\x80" * 10 + b"\0", "longer than 10 bytes"),
    "a tag of 6 bytes": (wire.varint(1 << 3, length=6) + b"\0", "longer than 5 bytes"),
    "a length of 6 bytes": (wire.tag(1, wire.LEN) + wire.varint(1, length=6) + b"a", "longer than 5 bytes"),
    "field number 0": (wire.tag(0, wire.VARINT) + b"\0", "field number 0 does not exist"),
    "field number 2^29": (wire.tag(2**29, wire.VARINT) + b"\0", "field number 536870912 does not exist"),
    "a length without value": (wire.tag(1, wire.LEN), "ends inside a field"),
    "a length beyond the end": (
        wire.field(3, wire.LEN, b"abcd")[:-1],
        "field 3 is said to be 4 bytes long, 3 are left",
    ),
    "the largest length": (wire.tag(1, wire.LEN) + wire.varint(2**32 - 1), "said to be 4294967295 bytes long, 0"),
    "a fixed64 of 7 bytes": (wire.tag(1, wire.I64) + bytes(7), "ends inside a field"),
    "a fixed32 of 3 bytes": (wire.tag(1, wire.I32) + bytes(3), "ends inside a field"),
    "a group": (wire.tag(1, wire.START_GROUP) + wire.tag(1, wire.END_GROUP), "wire type 3, which is not used here"),
    "the end of a group": (wire.tag(1, wire.END_GROUP), "wire type 4"),
    "wire type 6": (wire.tag(1, 6), "wire type 6"),
    "wire type 7": (wire.tag(1, 7), "wire type 7"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_message_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        list(protowire.fields(data))


def test_fields_before_the_trouble_are_given() -> None:
    """The reader streams: nothing is looked at before it is asked for."""
    found = protowire.fields(wire.field(1, wire.I64, struct.pack("<d", 1.5)) + b"\x00")
    assert next(found)[:2] == (1, protowire.FIXED64)
    with pytest.raises(WireError):
        next(found)
