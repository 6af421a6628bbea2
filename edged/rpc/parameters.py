"""The parameters of a request and of its tensors: read from their bytes, and taken by their reserved names. Pure.

The names and what they mean are Triton's: its extensions "parameters", "shared memory" and "classification", and
`ModelDynamicBatching` of `protos/inference/model_config.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from edged import protowire
from edged.errors import Code, EdgedError
from edged.protowire import BYTES, FIXED64, VARINT, encode_bytes, encode_varint
from edged.serving.request import Place

Parameter = bool | int | float | str

# Parameters whose meaning Triton fixes, and which this release does not carry out.
_UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end")

_TIMEOUT, _PRIORITY, _BINARY = "timeout", "priority", "binary_data_output"
_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
_CLASSIFICATION = "classification"

SYNTHETIC = "edged_synthetic"
"""A request's inputs are made up, as for a measurement."""

# Those that are carried out; any other is passed over.
RESERVED = (_TIMEOUT, _PRIORITY, _BINARY, _REGION, _SIZE, _OFFSET, _CLASSIFICATION, SYNTHETIC)

_MAX_CLASSES = 65_536
_MAX_PRIORITY = 2**32 - 1
_LONGEST_WHOLE = 20

_DOUBLE = struct.Struct("<d")


def read_parameter(data: bytes, at: int, end: int) -> tuple[str, Parameter]:
    """The name and value of an entry of map<string, InferParameter>. Raises WireError."""
    name = ""
    value: Parameter = ""
    for number, kind, first, second in protowire.fields(data, at, end):
        if number == 1 and kind == BYTES:
            name = protowire.text(data, first, second, "a parameter's name")
        elif number == 2 and kind == BYTES:
            for choice, form, start, stop in protowire.fields(data, first, second):
                if choice == 1 and form == VARINT:
                    value = start != 0
                elif choice == 2 and form == VARINT:
                    value = protowire.signed(start)
                elif choice == 3 and form == BYTES:
                    value = protowire.text(data, start, stop, "a parameter")
                elif choice == 4 and form == FIXED64:
                    (value,) = _DOUBLE.unpack_from(data, start)
                elif choice == 5 and form == VARINT:
                    value = start
    return name, value


def string_parameter(number: int, name: str, value: str) -> bytes:
    """An entry of the map<string, InferParameter> that is field `number`."""
    return _entry(number, name, encode_bytes(3, value.encode()))


def bool_parameter(number: int, name: str, value: bool) -> bytes:
    """An entry of the map<string, InferParameter> that is field `number`."""
    return _entry(number, name, encode_varint(1 << 3 | VARINT) + encode_varint(value))


def place_parameters(number: int, place: Place) -> bytes:
    """Where in shared memory a tensor lies, as entries of the map<string, InferParameter> that is field `number`."""
    offset = _integer_parameter(number, _OFFSET, place.offset) if place.offset else b""
    size = _integer_parameter(number, _SIZE, place.size)
    return string_parameter(number, _REGION, place.region) + size + offset


def _integer_parameter(number: int, name: str, value: int) -> bytes:
    return _entry(number, name, encode_varint(2 << 3 | VARINT) + encode_varint(value))


def _entry(number: int, name: str, value: bytes) -> bytes:
    return encode_bytes(number, encode_bytes(1, name.encode()) + encode_bytes(2, value))


def check_request(parameters: Mapping[str, Parameter]) -> None:
    """Refuses by name what is not carried out. Raises EdgedError (unsupported, invalid_argument)."""
    for name in _UNSUPPORTED:
        if parameters.get(name):
            raise unsupported(name, "")
    # The answers of gRPC are binary whatever it says; clients that speak both transports send it along.
    if not isinstance(binary := parameters.get(_BINARY, False), bool):
        raise _invalid(_BINARY, "", binary, "it is a bool, and changes nothing over gRPC")


def timeout_s(parameters: Mapping[str, Parameter]) -> float | None:
    """The `timeout`, which is in µs; 0 is none. Raises EdgedError (invalid_argument)."""
    value = _whole(parameters, _TIMEOUT, "", "it is an integer, in microseconds", 2**64 - 1)
    return value / 1e6 if value else None


def priority(parameters: Mapping[str, Parameter]) -> int:
    """The `priority`: 1 is the highest, 0 the model's default. Raises EdgedError (invalid_argument)."""
    wanted = "it is an integer: 1 is the highest, 0 the model's default"
    return _whole(parameters, _PRIORITY, "", wanted, _MAX_PRIORITY)


def synthetic(parameters: Mapping[str, Parameter]) -> bool:
    """Whether the inputs are made up. Raises EdgedError (invalid_argument)."""
    if not isinstance(value := parameters.get(SYNTHETIC, False), bool):
        raise _invalid(SYNTHETIC, "", value, "it is a bool: whether the inputs are made up")
    return value


def classes(parameters: Mapping[str, Parameter], where: str) -> int:
    """How many classes are asked for of the output that `where` names; 0: its elements. Raises EdgedError."""
    wanted = f"it is how many classes to give, an integer up to {_MAX_CLASSES}; 0: the elements themselves"
    return _whole(parameters, _CLASSIFICATION, where, wanted, _MAX_CLASSES)


def refuse_classes(parameters: Mapping[str, Parameter], where: str) -> None:
    """For an input, which has no classes. Raises EdgedError (unsupported)."""
    if _CLASSIFICATION in parameters:
        raise unsupported(_CLASSIFICATION, where)


def place(parameters: Mapping[str, Parameter], where: str) -> Place | None:
    """Where in shared memory the tensor that `where` names lies. Raises EdgedError (invalid_argument)."""
    given = [name for name in (_REGION, _SIZE, _OFFSET) if name in parameters]
    if not given:
        return None
    for name in (_REGION, _SIZE):
        if name not in parameters:
            raise EdgedError(
                Code.INVALID_ARGUMENT,
                f"parameter {given[0]!r}{where} comes without {name!r}",
                f"a tensor in shared memory needs both {_REGION!r} and {_SIZE!r}",
            )
    region = parameters[_REGION]
    if not isinstance(region, str) or not region:
        raise _invalid(_REGION, where, region, "it is the name under which a region was registered")
    size = _whole(parameters, _SIZE, where, "it is an integer, in bytes", 2**63 - 1)
    offset = _whole(parameters, _OFFSET, where, "it is an integer, in bytes", 2**63 - 1 - size)
    return Place(region, offset, size)


def _whole(parameters: Mapping[str, Parameter], name: str, where: str, wanted: str, most: int) -> int:
    """An integer of 0 to `most`, or one in text; 0 where it is missing."""
    value = found = parameters.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < _LONGEST_WHOLE:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise _invalid(name, where, found, wanted)
    return value


def _invalid(name: str, where: str, value: Parameter, wanted: str) -> EdgedError:
    return EdgedError(Code.INVALID_ARGUMENT, f"parameter {name!r}{where} is {str(value)[:32]!r}", wanted)


def unsupported(name: str, where: str) -> EdgedError:
    """The refusal of a parameter that is not carried out."""
    return EdgedError(Code.UNSUPPORTED, f"parameter {name!r}{where} is not supported", "leave it out of the request")
