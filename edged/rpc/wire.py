"""Reads an inference request from its raw bytes, tensors uncopied, and writes the answer.

The messages are those of `protos/inference/grpc_service.proto`; the field numbers stand there. Metadata of inputs and
outputs repeats from request to request and is read once for each distinct sequence of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache

from edged import protowire
from edged.errors import Code, EdgedError
from edged.protowire import BYTES, FIXED32, FIXED64, VARINT, WireError, encode_bytes, encode_varint
from edged.serving.request import Answer, Call, Contents, InputMeta
from edged.types import Level
from edged.worker.messages import Form

# Metadata longer than this is not kept: it would fill the memory, and is rare.
_KEPT_BYTES = 1024
_KEPT = 1024

# A request of more fields than this is refused: reading each in turn would hold up everybody else. Contents that are
# packed or raw are one field, however long; what lies in one of another kind is charged by what it could hold.
_MAX_FIELDS = 65_536

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

_DOUBLE = struct.Struct("<d")

# Parameters whose meaning the protocol or its Triton superset fixes, and which this release does not carry out.
_UNSUPPORTED_REQUEST = ("sequence_id", "sequence_start", "sequence_end", "priority")
_UNSUPPORTED_TENSOR = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "classification",
)

Parameter = bool | int | float | str

# An input: what it says, the names of its parameters, its typed contents, the fields it was read from.
_Input = tuple[InputMeta, tuple[str, ...], Contents | None, int]


def read_request(data: bytes) -> Call:
    """The request that `data` holds. Raises EdgedError: malformed_request, invalid_tensor or unsupported."""
    try:
        return _Reader(data).read()
    except WireError as error:
        raise EdgedError(
            Code.MALFORMED_REQUEST,
            f"the request is no ModelInferRequest: {error}",
            "is the client's protocol the same?",
        ) from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._view = memoryview(data)

    def read(self) -> Call:
        data = self._data
        model = version = identity = ""
        parameters: dict[str, Parameter] = {}
        inputs: list[_Input] = []
        outputs: list[tuple[str, tuple[str, ...]]] = []
        raw: list[memoryview] = []
        signature: list[object] = []
        left = _MAX_FIELDS
        varint_bytes = 0
        for number, kind, at, end in protowire.fields(data):
            left -= 1
            if number == 7 and kind == BYTES:
                raw.append(self._view[at:end])
            elif number == 5 and kind == BYTES:
                found = _short_input(data[at:end]) if end - at <= _KEPT_BYTES else _input(data, at, end)
                inputs.append(found)
                signature.append(found[0])
                left -= found[3]
                if (typed := found[2]) is not None and typed.form is Form.VARINT:
                    varint_bytes = _bounded(varint_bytes + typed.size, found[0])
            elif number == 1 and kind == BYTES:
                model = _text(data, at, end, "model_name")
            elif number == 2 and kind == BYTES:
                version = _text(data, at, end, "model_version")
            elif number == 3 and kind == BYTES:
                identity = _text(data, at, end, "id")
            elif number == 6 and kind == BYTES:
                left -= _at_most(end - at)
                output = _short_output(data[at:end]) if end - at <= _KEPT_BYTES else _output(data[at:end])
                outputs.append(output)
                signature.append(output[0])
            elif number == 4 and kind == BYTES:
                left -= _at_most(end - at)
                parameters.update([_parameter(data, at, end)])
            if left < 0:
                raise _too_many()
        timeout_s = _timeout_s(parameters)
        for meta, names, *_ in inputs:
            _refuse(names, _UNSUPPORTED_TENSOR, f" of input {meta.name[:64]!r}")
        for name, names in outputs:
            _refuse(names, _UNSUPPORTED_TENSOR, f" of output {name[:64]!r}")
        return Call(
            model=model,
            version=version,
            id=identity,
            inputs=tuple(meta for meta, *_ in inputs),
            outputs=tuple(name for name, _ in outputs),
            contents=_contents(inputs, raw),
            signature=tuple(signature),
            timeout_s=timeout_s,
        )


def _contents(inputs: list[_Input], raw: list[memoryview]) -> tuple[Contents, ...]:
    if raw:
        if len(raw) != len(inputs):
            raise EdgedError(
                Code.INVALID_TENSOR,
                f"the request has {len(inputs)} inputs and {len(raw)} raw_input_contents",
                "give one of them for each input, in the same order",
            )
        for meta, _, typed, _ in inputs:
            if typed is not None:
                raise EdgedError(
                    Code.INVALID_TENSOR,
                    f"input {meta.name[:64]!r} has contents, and the request has raw_input_contents",
                    "give the one or the other",
                )
        return tuple(Contents(Form.RAW, (part,), -1) for part in raw)
    found = []
    for meta, _, typed, _ in inputs:
        if typed is not None:
            found.append(typed)
        elif 0 in meta.shape:
            found.append(Contents(Form.RAW, (), -1))
        else:
            raise EdgedError(
                Code.INVALID_TENSOR,
                f"input {meta.name[:64]!r} has no contents",
                "give raw_input_contents, or the contents field of its datatype",
            )
    return tuple(found)


def _input(data: bytes, at: int, end: int) -> _Input:
    name = datatype = ""
    shape: list[int] = []
    parameters: list[str] = []
    spans: list[tuple[int, int]] = []
    count = 0
    for number, kind, first, second in protowire.fields(data, at, end):
        count += 1
        if number == 1 and kind == BYTES:
            name = _text(data, first, second, "an input's name")
        elif number == 2 and kind == BYTES:
            datatype = _text(data, first, second, "an input's datatype")
        elif number == 3 and kind == VARINT:
            shape.append(_signed(first))
        elif number == 3 and kind == BYTES:
            count += _at_most(second - first)
            shape += _packed(data, first, second)
        elif number == 4 and kind == BYTES:
            count += _at_most(second - first)
            parameters.append(_parameter(data, first, second)[0])
        elif number == 5 and kind == BYTES:
            spans.append((first, second))
        if count > _MAX_FIELDS:
            raise _too_many()
    meta = InputMeta(name, datatype, tuple(shape))
    if not spans:
        return meta, tuple(parameters), None, count
    contents, more = _typed(data, spans, meta, _MAX_FIELDS - count)
    return meta, tuple(parameters), contents, count + more


@lru_cache(maxsize=_KEPT)
def _short_input(data: bytes) -> _Input:
    return _input(data, 0, len(data))


def _output(data: bytes) -> tuple[str, tuple[str, ...]]:
    """An InferRequestedOutputTensor: its name, and the names of its parameters."""
    name = ""
    parameters: list[str] = []
    for number, kind, at, end in protowire.fields(data):
        if number == 1 and kind == BYTES:
            name = _text(data, at, end, "an output's name")
        elif number == 2 and kind == BYTES:
            parameters.append(_parameter(data, at, end)[0])
    return name, tuple(parameters)


_short_output = lru_cache(maxsize=_KEPT)(_output)


def _typed(data: bytes, spans: list[tuple[int, int]], meta: InputMeta, max_fields: int) -> tuple[Contents | None, int]:
    """The one filled field of an input's InferTensorContents, None when it is empty; and how many fields were read."""
    filled = 0
    walked = 0
    parts: list[bytes | memoryview] = []
    size = count = 0
    view = memoryview(data)
    for start, stop in spans:
        for number, kind, at, end in protowire.fields(data, start, stop):
            walked += 1
            if walked > max_fields:
                raise _too_many()
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
                size = _bounded(size + end - at, meta)
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


def _at_most(size: int) -> int:
    """The fields that `size` bytes hold at most; more than a request may have are not read at all."""
    if size > 2 * _MAX_FIELDS:
        raise _too_many()
    return size // 2


def _too_many() -> EdgedError:
    return EdgedError(
        Code.INVALID_ARGUMENT,
        f"the request has more than {_MAX_FIELDS} fields",
        "give the tensors in raw_input_contents",
    )


def _bounded(varint_bytes: int, meta: InputMeta) -> int:
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


def _parameter(data: bytes, at: int, end: int) -> tuple[str, Parameter]:
    """An entry of map<string, InferParameter>."""
    name = ""
    value: Parameter = ""
    for number, kind, first, second in protowire.fields(data, at, end):
        if number == 1 and kind == BYTES:
            name = _text(data, first, second, "a parameter's name")
        elif number == 2 and kind == BYTES:
            for choice, form, start, stop in protowire.fields(data, first, second):
                if choice == 1 and form == VARINT:
                    value = start != 0
                elif choice == 2 and form == VARINT:
                    value = _signed(start)
                elif choice == 3 and form == BYTES:
                    value = _text(data, start, stop, "a parameter")
                elif choice == 4 and form == FIXED64:
                    (value,) = _DOUBLE.unpack_from(data, start)
                elif choice == 5 and form == VARINT:
                    value = start
    return name, value


def _timeout_s(parameters: dict[str, Parameter]) -> float | None:
    """The `timeout` parameter, which is in µs; 0 is none. What is not supported is refused by name."""
    _refuse(tuple(name for name, value in parameters.items() if value), _UNSUPPORTED_REQUEST, "")
    value = parameters.get("timeout", 0)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise EdgedError(
            Code.INVALID_ARGUMENT, f"parameter 'timeout' is {str(value)[:32]!r}", "it is an integer, in microseconds"
        )
    return value / 1e6 if value else None


def _refuse(names: tuple[str, ...], unsupported: tuple[str, ...], where: str) -> None:
    for name in names:
        if name in unsupported:
            raise EdgedError(
                Code.UNSUPPORTED, f"parameter {name!r}{where} is not supported", "leave it out of the request"
            )


def _text(data: bytes, at: int, end: int, what: str) -> str:
    try:
        return data[at:end].decode()
    except UnicodeDecodeError as error:
        raise WireError(f"{what} is not UTF-8 text") from error


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _packed(data: bytes, at: int, end: int) -> Iterator[int]:
    while at < end:
        value, at = protowire.varint(data, at, end)
        yield _signed(value)


def write_answer(answer: Answer, identity: str, level: Level) -> bytes:
    """A ModelInferResponse; the parts that repeat are made once."""
    parts: list[bytes | memoryview] = [_head(answer.model, answer.revision, answer.variant, level, answer.degraded)]
    if identity:
        parts.append(encode_bytes(3, identity.encode()))
    parts += [_output_meta(output.name, output.datatype, output.shape) for output in answer.outputs]
    for output in answer.outputs:
        parts += [_raw_prefix(len(output.data)), output.data]
    return b"".join(parts)


@lru_cache(maxsize=_KEPT)
def _head(model: str, revision: int, variant: str, level: Level, degraded: bool) -> bytes:
    return b"".join(
        (
            encode_bytes(1, model.encode()),
            encode_bytes(2, str(revision).encode()),
            _string_parameter("edged_variant", variant),
            _string_parameter("edged_level", level),
            _entry("edged_degraded", encode_varint(1 << 3 | VARINT) + encode_varint(degraded)),
        )
    )


def _string_parameter(name: str, value: str) -> bytes:
    return _entry(name, encode_bytes(3, value.encode()))


def _entry(name: str, value: bytes) -> bytes:
    return encode_bytes(4, encode_bytes(1, name.encode()) + encode_bytes(2, value))


@lru_cache(maxsize=_KEPT)
def _output_meta(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(encode_varint(size) for size in shape)
    packed = encode_bytes(3, sizes) if sizes else b""
    return encode_bytes(5, encode_bytes(1, name.encode()) + encode_bytes(2, datatype.encode()) + packed)


@lru_cache(maxsize=_KEPT)
def _raw_prefix(size: int) -> bytes:
    return encode_varint(6 << 3 | BYTES) + encode_varint(size)
