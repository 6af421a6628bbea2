"""What a request says of one input or requested output. Pure.

Most of it repeats from request to request and is read once for each distinct sequence of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from edged import protowire
from edged.errors import Code, EdgedError
from edged.protowire import BYTES, VARINT
from edged.rpc import parameters
from edged.rpc.bounds import MAX_FIELDS, at_most, too_many
from edged.rpc.contents import read_contents
from edged.rpc.parameters import Parameter, read_parameter
from edged.serving.request import Asked, Contents, InputMeta
from edged.worker.messages import Form

# Metadata longer than this is not kept: it would fill the memory, and is rare.
_KEPT_BYTES = 1024
_KEPT = 1024


class Input(NamedTuple):
    """An InferInputTensor. `contents`: what it brings with it, or where in shared memory they lie; else None."""

    meta: InputMeta
    contents: Contents | None
    fields: int
    """The protobuf fields it was read from."""


class Requested(NamedTuple):
    """An InferRequestedOutputTensor. `signature` is equal for those that differ in their place alone."""

    asked: Asked
    signature: tuple[str, int]


def read_input(data: bytes, at: int, end: int) -> Input:
    """The input that data[at:end] describes. Raises EdgedError (invalid_tensor, invalid_argument) or WireError."""
    return _short_input(data[at:end]) if end - at <= _KEPT_BYTES else _input(data, at, end)


def read_output(data: bytes, at: int, end: int) -> Requested:
    """The requested output that data[at:end] describes. Raises EdgedError (invalid_argument) or WireError."""
    return _short_output(data[at:end]) if end - at <= _KEPT_BYTES else _output(data[at:end])


def _input(data: bytes, at: int, end: int) -> Input:
    name = datatype = ""
    shape: list[int] = []
    given: dict[str, Parameter] = {}
    spans: list[tuple[int, int]] = []
    count = 0
    for number, kind, first, second in protowire.fields(data, at, end):
        count += 1
        if number == 1 and kind == BYTES:
            name = protowire.text(data, first, second, "an input's name")
        elif number == 2 and kind == BYTES:
            datatype = protowire.text(data, first, second, "an input's datatype")
        elif number == 3 and kind == VARINT:
            shape.append(protowire.signed(first))
        elif number == 3 and kind == BYTES:
            count += at_most(second - first)
            shape += _packed(data, first, second)
        elif number == 4 and kind == BYTES:
            count += at_most(second - first)
            given.update([read_parameter(data, first, second)])
        elif number == 5 and kind == BYTES:
            spans.append((first, second))
        if count > MAX_FIELDS:
            raise too_many()
    meta = InputMeta(name, datatype, tuple(shape))
    typed, more = read_contents(data, spans, meta, MAX_FIELDS - count) if spans else (None, 0)
    return Input(meta, _placed(meta, given, typed) if given else typed, count + more)


def _placed(meta: InputMeta, given: dict[str, Parameter], typed: Contents | None) -> Contents | None:
    where = f" of input {meta.name[:64]!r}"
    parameters.refuse_classes(given, where)
    place = parameters.place(given, where)
    if place is None:
        return typed
    if typed is not None:
        raise EdgedError(
            Code.INVALID_TENSOR,
            f"input {meta.name[:64]!r} has contents, and lies in shared memory",
            "give the one or the other",
        )
    return Contents(Form.RAW, (), -1, place)


@lru_cache(maxsize=_KEPT)
def _short_input(data: bytes) -> Input:
    return _input(data, 0, len(data))


def _output(data: bytes) -> Requested:
    name = ""
    given: dict[str, Parameter] = {}
    for number, kind, at, end in protowire.fields(data):
        if number == 1 and kind == BYTES:
            name = protowire.text(data, at, end, "an output's name")
        elif number == 2 and kind == BYTES:
            given.update([read_parameter(data, at, end)])
    where = f" of output {name[:64]!r}"
    classes, place = parameters.classes(given, where), parameters.place(given, where)
    if classes and place is not None:
        raise EdgedError(
            Code.INVALID_ARGUMENT,
            f"output {name[:64]!r} is asked for as classes, and in shared memory",
            "ask for the one or the other",
        )
    return Requested(Asked(name, classes, place), (name, classes))


_short_output = lru_cache(maxsize=_KEPT)(_output)


def _packed(data: bytes, at: int, end: int) -> Iterator[int]:
    while at < end:
        value, at = protowire.varint(data, at, end)
        yield protowire.signed(value)
