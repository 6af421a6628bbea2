"""The hand-written reader and writer of inference messages, held against protobuf itself.

What `read_request` sees of a message is what protobuf sees of it, however the message is written: packed or not, in
one piece or merged from several, with fields that nobody knows. Known exception: groups, which proto3 cannot write, are
refused where protobuf passes over them.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Sequence
from random import Random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from support import mutations
from support.fields import LEN, VARINT, field, varint

from edged._pb.inference import grpc_service_pb2 as pb
from edged.errors import Code, EdgedError
from edged.rpc.answer import write_answer
from edged.rpc.wire import read_request
from edged.serving.request import Answer, Asked, Call, Contents, InputMeta, Output
from edged.types import Datatype, Level
from edged.worker import codec
from edged.worker.messages import Form

# Datatype → its field of InferTensorContents, and the values that field and datatype both hold.
TYPED = {
    "BOOL": ("bool_contents", st.booleans()),
    "INT8": ("int_contents", st.integers(-(2**7), 2**7 - 1)),
    "INT16": ("int_contents", st.integers(-(2**15), 2**15 - 1)),
    "INT32": ("int_contents", st.integers(-(2**31), 2**31 - 1)),
    "INT64": ("int64_contents", st.integers(-(2**63), 2**63 - 1)),
    "UINT8": ("uint_contents", st.integers(0, 2**8 - 1)),
    "UINT16": ("uint_contents", st.integers(0, 2**16 - 1)),
    "UINT32": ("uint_contents", st.integers(0, 2**32 - 1)),
    "UINT64": ("uint64_contents", st.integers(0, 2**64 - 1)),
    "FP32": ("fp32_contents", st.floats(width=32, allow_nan=False)),
    "FP64": ("fp64_contents", st.floats(allow_nan=False)),
    "BYTES": ("bytes_contents", st.binary(max_size=8)),
}
NUMBERS = {each.name: each.number for each in pb.InferTensorContents.DESCRIPTOR.fields}
FIXED = {"fp32_contents": "<f", "fp64_contents": "<d"}

# What the reader refuses by name; the properties are about everything else.
RESERVED = {
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "priority",
    "timeout",
    "binary_data_output",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "classification",
    "edged_synthetic",
}

Input = pb.ModelInferRequest.InferInputTensor
Requested = pb.ModelInferRequest.InferRequestedOutputTensor

words = st.text(max_size=12)
names = words.filter(lambda name: name not in RESERVED)
sizes = st.one_of(st.integers(0, 4), st.integers(-(2**63), 2**63 - 1))
parameters = st.dictionaries(
    names,
    st.one_of(
        st.builds(pb.InferParameter, bool_param=st.booleans()),
        st.builds(pb.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(pb.InferParameter, string_param=words),
        st.builds(pb.InferParameter, double_param=st.floats()),
        st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
    ),
    max_size=3,
)


@st.composite
def inputs(draw: st.DrawFn, *, raw: bool) -> Input:
    """An input whose contents are elsewhere (`raw`), or in the field of its datatype, or not there at all."""
    datatype = draw(st.sampled_from([str(each) for each in Datatype]) if raw else st.sampled_from(sorted(TYPED)))
    contents = None
    shape = draw(st.lists(sizes, max_size=4))
    if not raw:
        field_name, values = TYPED[datatype]
        elements = draw(st.lists(values, max_size=6))
        contents = pb.InferTensorContents(**{field_name: elements})
        if not elements:
            shape.append(0)
    return Input(name=draw(words), datatype=datatype, shape=shape, parameters=draw(parameters), contents=contents)


@st.composite
def requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    """A request that the reader takes; whether any model would is another matter."""
    raw = draw(st.booleans())
    tensors = draw(st.lists(inputs(raw=raw), max_size=3))
    return pb.ModelInferRequest(
        model_name=draw(words),
        model_version=draw(words),
        id=draw(words),
        parameters=draw(parameters),
        inputs=tensors,
        outputs=draw(st.lists(st.builds(Requested, name=words, parameters=parameters), max_size=3)),
        raw_input_contents=[draw(st.binary(max_size=16)) for _ in tensors] if raw else [],
    )


def elements(datatype: str, contents: Contents) -> list[object]:
    """What the worker makes of one input's contents."""
    data = memoryview(b"".join(contents.parts))
    kind = Datatype(datatype)
    if kind is Datatype.BYTES:
        count, at = 0, 0
        while at < len(data):
            at += 4 + int.from_bytes(data[at : at + 4], "little")
            count += 1
    else:
        count = contents.count if contents.form is Form.VARINT else len(data) // kind.size
    return list(codec.decode("x", kind, [count], contents.form, data).tolist())


def assert_sees(call: Call, message: pb.ModelInferRequest) -> None:
    """The reader's call says what protobuf's message says."""
    assert call.model == message.model_name
    assert call.version == message.model_version
    assert call.id == message.id
    assert call.inputs == tuple(InputMeta(each.name, each.datatype, tuple(each.shape)) for each in message.inputs)
    assert call.outputs == tuple(Asked(each.name) for each in message.outputs)
    assert len(call.contents) == len(message.inputs)
    if message.raw_input_contents:
        assert [b"".join(each.parts) for each in call.contents] == list(message.raw_input_contents)
        assert {each.form for each in call.contents} == {Form.RAW}
        return
    for tensor, contents in zip(message.inputs, call.contents, strict=True):
        filled = tensor.contents.ListFields()
        if not filled:
            assert contents.size == 0
            continue
        [(descriptor, values)] = filled
        assert tensor.datatype in TYPED
        assert descriptor.name == TYPED[tensor.datatype][0]
        if descriptor.name in FIXED:
            assert b"".join(contents.parts) == struct.pack(f"<{len(values)}{FIXED[descriptor.name][1]}", *values)
        elif descriptor.name in ("int_contents", "uint_contents"):
            assert_narrow(tensor.datatype, contents, list(values))
        else:
            assert elements(tensor.datatype, contents) == list(values)


def assert_narrow(datatype: str, contents: Contents, values: Sequence[int]) -> None:
    """Values that the field holds and the datatype perhaps does not."""
    bits = 8 * Datatype(datatype).size
    low, high = (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if all(low <= value <= high for value in values):
        assert elements(datatype, contents) == values
    else:
        with pytest.raises(EdgedError, match=f"is no {datatype}"):
            elements(datatype, contents)


def unpacked(tensor: Input) -> bytes:
    """An input with every repeated number as a field of its own, as old clients write it."""
    contents = b""
    for descriptor, values in tensor.contents.ListFields():
        for value in values:
            if descriptor.name in FIXED:
                packed = struct.pack(FIXED[descriptor.name], value)
                contents += field(descriptor.number, 5 if len(packed) == 4 else 1, packed)
            elif descriptor.name == "bytes_contents":
                contents += field(descriptor.number, LEN, value)
            else:
                contents += field(descriptor.number, VARINT, varint(int(value) % 2**64))
    shape = b"".join(field(3, VARINT, varint(size % 2**64)) for size in tensor.shape)
    head = Input(name=tensor.name, datatype=tensor.datatype, parameters=tensor.parameters).SerializeToString()
    return head + shape + (field(5, LEN, contents) if tensor.HasField("contents") else b"")


@given(requests())
def test_a_message_is_seen_as_protobuf_sees_it(message: pb.ModelInferRequest) -> None:
    assert_sees(read_request(message.SerializeToString()), message)


@given(requests())
def test_unpacked_numbers_are_the_same_as_packed_ones(message: pb.ModelInferRequest) -> None:
    head = pb.ModelInferRequest()
    head.CopyFrom(message)
    head.ClearField("inputs")
    data = head.SerializeToString() + b"".join(field(5, LEN, unpacked(each)) for each in message.inputs)
    assert pb.ModelInferRequest.FromString(data) == message
    assert_sees(read_request(data), message)


@given(requests(), requests())
def test_two_messages_in_a_row_are_their_merge(first: pb.ModelInferRequest, second: pb.ModelInferRequest) -> None:
    data = first.SerializeToString() + second.SerializeToString()
    merged = pb.ModelInferRequest.FromString(data)
    if bool(first.raw_input_contents) != bool(second.raw_input_contents) and first.inputs and second.inputs:
        with pytest.raises(EdgedError) as raised:
            read_request(data)
        assert raised.value.code is Code.INVALID_TENSOR
    else:
        assert_sees(read_request(data), merged)


@given(requests(), st.integers(0, 2**32 - 1))
def test_fields_nobody_knows_are_passed_over(message: pb.ModelInferRequest, seed: int) -> None:
    """A newer client's fields change nothing, at any level."""
    random = Random(seed)
    unknown = field(random.randrange(100, 2**29), LEN, random.randbytes(random.randrange(20)))
    for each in (unknown, field(2000, VARINT, varint(random.getrandbits(64))), field(2001, 5, b"abcd")):
        inner = pb.ModelInferRequest()
        inner.CopyFrom(message)
        inner.ClearField("inputs")
        data = each + inner.SerializeToString() + each
        data += b"".join(field(5, LEN, tensor.SerializeToString() + each) for tensor in message.inputs)
        assert_sees(read_request(data), message)


def read_as_both(data: bytes) -> None:
    """Reads `data` with the reader and with protobuf: what the one takes the other takes, and sees the same."""
    try:
        message = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        with pytest.raises(EdgedError):
            read_request(data)
        return
    try:
        call = read_request(data)
    except EdgedError as error:
        if error.code is Code.MALFORMED_REQUEST and "wire type 3" not in str(error):
            pytest.fail(f"refused, and protobuf takes it: {error}")
        return
    assert_sees(call, message)


@given(st.binary(max_size=64))
@example(field(5, LEN, field(5, LEN, field(1, 5, b"abcd"))))  # a field of contents in a wire type that it never has
@example(field(3, VARINT, b"\x00"))
@example(b"\x8a\x80\x80\x80\x80\x00\x00")  # a tag longer than 5 bytes
@example(b"\x0a\x81\x80\x80\x80\x80\x00a")  # a length longer than 5 bytes
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x00")
def test_any_bytes_are_read_or_refused_as_protobuf_does(data: bytes) -> None:
    read_as_both(data)


@given(requests(), requests(), st.integers(0, 2**32 - 1))
def test_mutated_messages_are_read_or_refused_as_protobuf_does(
    message: pb.ModelInferRequest, other: pb.ModelInferRequest, seed: int
) -> None:
    random = Random(seed)
    data = message.SerializeToString()
    for _ in range(random.randint(1, 4)):
        data = mutations.mutate_bytes(random, data, other.SerializeToString())
    read_as_both(data)


# Sound messages of two million fields each: reading one would hold up everybody else for a second.
ENDLESS = {
    "inputs": field(5, LEN, b"") * 2**20,
    "outputs": field(6, LEN, b"") * 2**20,
    "raw contents": field(7, LEN, b"") * 2**20,
    "parameters": field(4, LEN, b"") * 2**20,
    "a field within a parameter": field(4, LEN, field(1, LEN, b"") * 2**20),
    "a field within an output": field(6, LEN, field(1, LEN, b"") * 2**20),
    "names": field(1, LEN, b"") * 2**20,
    "unknown fields": field(31, VARINT, b"\0") * 2**20,
    "axes": field(5, LEN, field(3, LEN, b"\1" * 2**20)),
    "axes, unpacked": field(5, LEN, field(3, VARINT, b"\1") * 2**20),
    "elements, unpacked": field(5, LEN, field(5, LEN, field(2, VARINT, b"\1") * 2**20)),
    "elements of BYTES": field(5, LEN, field(5, LEN, field(8, LEN, b"") * 2**20)),
    "unknown fields of an input": field(5, LEN, field(31, VARINT, b"\0") * 2**20),
    "unknown fields of contents": field(5, LEN, field(5, LEN, field(31, VARINT, b"\0") * 2**20)),
    "inputs of many fields each": b"".join(
        field(5, LEN, field(1, LEN, str(each).encode()) + field(31, VARINT, b"\0") * 300) for each in range(1000)
    ),
}


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS)
def test_a_request_of_endless_fields_is_refused(data: bytes) -> None:
    pb.ModelInferRequest.FromString(data)
    with pytest.raises(EdgedError, match="more than 65536 fields; give the tensors in raw_input_contents") as raised:
        read_request(data)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_packed_contents_are_one_field_however_long() -> None:
    tensor = Input(
        name="x", datatype="INT32", shape=[200_000], contents=pb.InferTensorContents(int_contents=range(200_000))
    )
    call = read_request(pb.ModelInferRequest(inputs=[tensor]).SerializeToString())
    assert elements("INT32", call.contents[0]) == list(range(200_000))


LIMIT = 1024 * 1024
TAKES_S = 0.25  # a hundred times what it takes, for a machine that does ten things at once
REFUSED = f"input 'x' brings the bool, int and uint contents above {LIMIT} bytes; give the tensors in raw_input_"


def packed(elements: bytes, *, name: str = "x", number: int = 2, datatype: str = "INT32") -> bytes:
    """An input with `elements`, varints, in one field of its contents."""
    return field(5, LEN, Input(name=name, datatype=datatype).SerializeToString() + contents(elements, number=number))


def contents(elements: bytes, *, number: int = 2) -> bytes:
    return field(5, LEN, field(number, LEN, elements))


# Sound messages that are too long by a byte, or by far.
LONG = {
    "a byte too many": packed(b"\1" * (LIMIT + 1)),
    "8 MiB": packed(b"\1" * 8 * LIMIT),
    "10 MiB of the longest elements": packed((b"\xff" * 9 + b"\1") * LIMIT),
    "8 MiB of elements that are too long": packed(b"\xff" * (8 * LIMIT - 1) + b"\1"),
    "bool_contents": packed(b"\1" * (LIMIT + 1), number=1, datatype="BOOL"),
    "int64_contents": packed(b"\1" * (LIMIT + 1), number=3, datatype="INT64"),
    "uint_contents": packed(b"\1" * (LIMIT + 1), number=4, datatype="UINT8"),
    "uint64_contents": packed(b"\1" * (LIMIT + 1), number=5, datatype="UINT64"),
    "two fields": field(
        5, LEN, Input(name="x", datatype="INT32").SerializeToString() + 2 * contents(b"\1" * (LIMIT // 2 + 1))
    ),
    "8 inputs, each of which may be": packed(b"\1" * LIMIT, name="w") + 7 * packed(b"\1" * LIMIT),
    "many short inputs": packed(b"\1" * (LIMIT - 1000), name="w") + 3 * packed(b"\1" * 500),
    "unpacked, on top": packed(b"\1" * LIMIT, name="w")
    + field(5, LEN, Input(name="x", datatype="INT32").SerializeToString() + field(5, LEN, field(2, VARINT, b"\1"))),
}


@pytest.mark.parametrize("data", LONG.values(), ids=LONG)
def test_long_contents_of_varints_are_refused_at_once(data: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(EdgedError, match=REFUSED) as raised:
        read_request(data)
    assert time.perf_counter() - began < TAKES_S
    assert raised.value.code is Code.INVALID_TENSOR


@pytest.mark.parametrize(
    "elements", [b"\1" * LIMIT, b"\x81\1" * (LIMIT // 2), (b"\xff" * 9 + b"\1") * (LIMIT // 10)], ids=["1", "2", "10"]
)
def test_the_longest_contents_of_varints_are_read_in_a_moment(elements: bytes) -> None:
    data = packed(elements)
    began = time.perf_counter()
    call = read_request(data)
    assert time.perf_counter() - began < TAKES_S
    assert call.contents[0].count == sum(byte < 0x80 for byte in elements)


@pytest.mark.parametrize("before", [b"", b"\1" * 50_000], ids=["alone", "after others"])
@pytest.mark.parametrize(
    ("element", "fault"),
    [
        (b"\xff" * 9 + b"\1", ""),
        (b"\xff" * 10 + b"\1", "int_contents has a varint of more than 10 bytes"),
        (b"\x80", "int_contents ends inside an element"),
    ],
    ids=["longest", "too long", "cut off"],
)
def test_a_varint_has_an_end_after_ten_bytes_at_most(before: bytes, element: bytes, fault: str) -> None:
    data = packed(before + element)
    if not fault:
        assert read_request(data).contents[0].count == len(before) + 1
        return
    with pytest.raises(EdgedError, match=fault) as raised:
        read_request(data)
    assert raised.value.code is Code.MALFORMED_REQUEST


def test_contents_that_are_no_varints_are_as_long_as_the_message() -> None:
    raw = pb.ModelInferRequest(inputs=[Input(name="x", datatype="INT32")], raw_input_contents=[bytes(4 * LIMIT)])
    assert read_request(raw.SerializeToString()).contents[0].size == 4 * LIMIT
    data = packed(bytes(4 * LIMIT), number=6, datatype="FP32")
    assert read_request(data).contents[0].size == 4 * LIMIT


outputs = st.builds(
    Output,
    name=st.text(min_size=1, max_size=12),
    datatype=st.sampled_from(Datatype),
    shape=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    data=st.binary(max_size=300).map(memoryview),
)


@given(
    st.builds(
        Answer,
        model=words,
        revision=st.integers(1, 2**53),
        variant=words,
        degraded=st.booleans(),
        outputs=st.lists(outputs, max_size=3).map(tuple),
    ),
    words,
    st.sampled_from(Level),
)
def test_an_answer_parses_to_what_went_in(answer: Answer, identity: str, level: Level) -> None:
    written = pb.ModelInferResponse.FromString(write_answer(answer, identity, level))
    Tensor = pb.ModelInferResponse.InferOutputTensor  # noqa: N806 - a class
    assert written == pb.ModelInferResponse(
        model_name=answer.model,
        model_version=str(answer.revision),
        id=identity,
        parameters={
            "edged_variant": pb.InferParameter(string_param=answer.variant),
            "edged_level": pb.InferParameter(string_param=level),
            "edged_degraded": pb.InferParameter(bool_param=answer.degraded),
        },
        outputs=[Tensor(name=each.name, datatype=each.datatype, shape=each.shape) for each in answer.outputs],
        raw_output_contents=[bytes(each.data) for each in answer.outputs],
    )


TIMEOUTS = {
    "int64": (pb.InferParameter(int64_param=1_500_000), 1.5),
    "uint64": (pb.InferParameter(uint64_param=250), 0.00025),
    "text": (pb.InferParameter(string_param="2000000"), 2.0),
    "zero is none": (pb.InferParameter(int64_param=0), None),
    "longest": (pb.InferParameter(uint64_param=2**64 - 1), (2**64 - 1) / 1e6),
}


@pytest.mark.parametrize(("value", "seconds"), TIMEOUTS.values(), ids=TIMEOUTS)
def test_the_timeout_parameter_is_in_microseconds(value: pb.InferParameter, seconds: float | None) -> None:
    call = read_request(pb.ModelInferRequest(parameters={"timeout": value}).SerializeToString())
    assert call.timeout_s == seconds or (seconds is not None and math.isclose(call.timeout_s or 0, seconds))


def test_the_last_choice_of_a_parameter_counts() -> None:
    """A oneof written twice holds its last member, whichever that is."""
    value = field(2, VARINT, varint(9)) + field(4, 1, struct.pack("<d", 2.5))
    entry = field(1, LEN, b"timeout") + field(2, LEN, value)
    assert pb.ModelInferRequest.FromString(field(4, LEN, entry)).parameters["timeout"].double_param == 2.5
    with pytest.raises(EdgedError, match="parameter 'timeout'"):
        read_request(field(4, LEN, entry))
