"""Elements as they come over the wire, as arrays, and back."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import protowire
from edged._pb.inference.grpc_service_pb2 import InferTensorContents
from edged.errors import Code, EdgedError
from edged.types import Datatype
from edged.worker.codec import DTYPES, decode, encode
from edged.worker.messages import Form

# What the protocol's own message packs into which field, and which numbers it takes.
TYPED = {
    "BOOL": ("bool_contents", 0, 1),
    "INT8": ("int_contents", -(2**7), 2**7 - 1),
    "INT16": ("int_contents", -(2**15), 2**15 - 1),
    "INT32": ("int_contents", -(2**31), 2**31 - 1),
    "INT64": ("int64_contents", -(2**63), 2**63 - 1),
    "UINT8": ("uint_contents", 0, 2**8 - 1),
    "UINT16": ("uint_contents", 0, 2**16 - 1),
    "UINT32": ("uint_contents", 0, 2**32 - 1),
    "UINT64": ("uint64_contents", 0, 2**64 - 1),
}

FIXED = [datatype for datatype in Datatype if datatype is not Datatype.BYTES]


def raw(datatype: Datatype, shape: Any, data: bytes) -> Any:
    return decode("x", datatype, shape, Form.RAW, memoryview(data))


def varints(datatype: Datatype, shape: Any, data: bytes) -> Any:
    return decode("x", datatype, shape, Form.VARINT, memoryview(data))


def told(call: Any, *arguments: Any) -> str:
    with pytest.raises(EdgedError) as caught:
        call(*arguments)
    assert caught.value.code is Code.INVALID_TENSOR
    return caught.value.message


def test_every_datatype_has_a_numpy_type_of_its_size():
    assert set(DTYPES) == set(Datatype)
    assert {datatype: DTYPES[datatype].itemsize for datatype in FIXED} == {
        datatype: datatype.size for datatype in FIXED
    }


@pytest.mark.parametrize(
    ("datatype", "data", "values"),
    [
        ("BOOL", b"\0\1", [False, True]),
        ("UINT8", b"\0\xff", [0, 255]),
        ("UINT16", b"\1\2\xff\xff", [0x0201, 65535]),
        ("UINT32", b"\1\2\3\4\xff\xff\xff\xff", [0x04030201, 2**32 - 1]),
        ("UINT64", b"\1\2\3\4\5\6\7\x08" + b"\xff" * 8, [0x0807060504030201, 2**64 - 1]),
        ("INT8", b"\x7f\x80", [127, -128]),
        ("INT16", b"\xff\x7f\x00\x80", [32767, -32768]),
        ("INT32", b"\xff\xff\xff\x7f\x00\x00\x00\x80", [2**31 - 1, -(2**31)]),
        ("INT64", struct.pack("<2q", 2**63 - 1, -(2**63)), [2**63 - 1, -(2**63)]),
        ("FP16", struct.pack("<2e", 1.5, -65504), [1.5, -65504.0]),
        ("BF16", b"\x80\x3f\x00\xc0", [0x3F80, 0xC000]),  # the bits of 1.0 and -2.0
        ("FP32", struct.pack("<2f", 0.25, -1e30), [0.25, float(np.float32(-1e30))]),
        ("FP64", struct.pack("<2d", 0.1, -1e300), [0.1, -1e300]),
        ("BYTES", b"\2\0\0\0ab\0\0\0\0", [b"ab", b""]),
    ],
)
def test_elements_are_little_endian(datatype, data, values):
    array = raw(Datatype(datatype), [2], data)
    assert (array.dtype, array.shape, array.tolist()) == (DTYPES[Datatype(datatype)], (2,), values)
    assert bytes(encode(array, Datatype(datatype))) == data


@pytest.mark.parametrize("datatype", FIXED)
@given(data=st.data())
def test_every_bit_comes_back(datatype, data):
    """NaN payloads, -0.0, subnormals and bfloat16 among them."""
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    size = int(np.prod(shape)) * datatype.size
    content = data.draw(st.binary(min_size=size, max_size=size))
    if datatype is Datatype.BOOL:
        content = bytes(byte & 1 for byte in content)
    array = raw(datatype, shape, content)
    assert (array.shape, array.dtype) == (tuple(shape), DTYPES[datatype])
    assert bytes(encode(array, datatype)) == content


@pytest.mark.parametrize(
    ("datatype", "bits"),
    [
        ("FP16", [0x8000, 0x7E01, 0xFC00, 0x0001]),
        ("BF16", [0x8000, 0x7FC1, 0xFF80, 0x0001]),
        ("FP32", [0x8000_0000, 0x7FC0_0001, 0xFF80_0000, 0x0000_0001]),
        ("FP32", [0x7F80_0001]),  # a signalling NaN: any arithmetic on it would make it quiet
        ("FP64", [0x8000_0000_0000_0000, 0x7FF8_0000_0000_0001, 0xFFF0_0000_0000_0000, 1]),
        ("FP64", [0x7FF0_0000_0000_0001]),
    ],
)
def test_floats_keep_zero_s_sign_nan_s_payload_and_what_is_subnormal(datatype, bits):
    kind = Datatype(datatype)
    content = b"".join(each.to_bytes(kind.size, "little") for each in bits)
    assert bytes(encode(raw(kind, [len(bits)], content), kind)) == content


@given(st.lists(st.binary(max_size=20)), st.booleans())
def test_strings_come_back(elements, as_column):
    shape = [len(elements), 1] if as_column else [len(elements)]
    content = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    array = raw(Datatype.BYTES, shape, content)
    assert (array.shape, array.reshape(-1).tolist()) == (tuple(shape), elements)
    assert bytes(encode(array, Datatype.BYTES)) == content


@pytest.mark.parametrize(
    ("form", "datatype"),
    [(Form.RAW, datatype) for datatype in Datatype] + [(Form.VARINT, Datatype(datatype)) for datatype in TYPED],
)
def test_a_tensor_without_elements_has_no_bytes(form, datatype):
    for shape in ([0], [0, 3], [3, 0], [0, 2**40]):
        array = decode("x", datatype, shape, form, memoryview(b""))
        assert (array.shape, array.dtype) == (tuple(shape), DTYPES[datatype])
        assert bytes(encode(array, datatype)) == b""


@pytest.mark.parametrize("datatype", Datatype)
def test_a_tensor_without_axes_has_one_element(datatype):
    content = b"\3\0\0\0abc" if datatype is Datatype.BYTES else b"\1" + bytes(datatype.size - 1)
    array = raw(datatype, [], content)
    assert array.shape == ()
    assert bytes(encode(array, datatype)) == content


@pytest.mark.parametrize("datatype", FIXED)
def test_raw_contents_are_not_copied(datatype):
    buffer = bytearray(6 * datatype.size)
    array = raw(datatype, [2, 3], buffer)
    assert np.shares_memory(array, np.frombuffer(buffer, np.uint8))
    assert np.shares_memory(np.frombuffer(encode(array, datatype), np.uint8), array)


@pytest.mark.parametrize("datatype", FIXED)
def test_raw_contents_may_stand_anywhere(datatype):
    """In the middle of a message nothing is aligned."""
    buffer = memoryview(bytes(1 + datatype.size) + b"\1" * 3)[1 : 1 + datatype.size]
    assert decode("x", datatype, [1], Form.RAW, buffer).tobytes() == bytes(datatype.size)


@pytest.mark.parametrize("datatype", FIXED)
def test_an_array_in_another_order_is_put_in_order(datatype):
    array = (np.arange(24) % 2).astype(DTYPES[datatype]).reshape(4, 6)
    for view in (array.T, array[::2], array[:, 1:3], array[:0], np.asfortranarray(array)):
        assert bytes(encode(view, datatype)) == view.tobytes("C")


@pytest.mark.parametrize("datatype", FIXED)
def test_another_number_of_bytes_is_refused(datatype):
    for shape, excess in (([2, 3], -1), ([2, 3], 1), ([0], 1), ([], -1)):
        wanted = int(np.prod(shape)) * datatype.size
        message = told(raw, datatype, shape, bytes(wanted + excess))
        assert message == f"input 'x' has {wanted + excess} bytes; {datatype} of shape {shape} takes {wanted}"


@pytest.mark.parametrize("byte", [2, 0x80, 0xFF])
def test_a_bool_is_0_or_1(byte):
    message = told(raw, Datatype.BOOL, [3], bytes([0, byte, 1]))
    assert message == "input 'x' has a BOOL element that is neither 0 nor 1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends at element 0; its shape takes 2 elements"),
        (b"\1\0\0", "ends at element 0; its shape takes 2 elements"),
        (b"\1\0\0\0a", "ends at element 1; its shape takes 2 elements"),
        (b"\1\0\0\0a\1\0\0", "ends at element 1; its shape takes 2 elements"),
        (b"\1\0\0\0a\2\0\0\0b", "element 1 is said to be 2 bytes long, 1 are left"),
        (b"\xff\xff\xff\xffa", "element 0 is said to be 4294967295 bytes long, 1 are left"),
        (b"\1\0\0\0a\1\0\0\0bc", "has 1 bytes more than its 2 elements take"),
        (b"\0\0\0\0\0\0\0\0\0\0\0\0", "has 4 bytes more than its 2 elements take"),
    ],
)
def test_a_length_that_lies_is_refused(data, message):
    assert told(raw, Datatype.BYTES, [2], data).removeprefix("input 'x'").lstrip(": ") == message


def packed(field: str, values: list[int]) -> bytes:
    """What protobuf itself writes for a packed field, without its tag and length."""
    message = InferTensorContents(**{field: values}).SerializeToString()
    return b"".join(message[at:end] for _, _, at, end in protowire.fields(message))


@pytest.mark.parametrize("datatype", TYPED)
@given(data=st.data())
def test_varints_are_what_protobuf_packs(datatype, data):
    field, least, most = TYPED[datatype]
    near = st.sampled_from([least, most, 0, 1, most // 2])
    values = data.draw(st.lists(st.integers(least, most) | near, max_size=12))
    array = varints(Datatype(datatype), [len(values)], packed(field, values))
    assert (array.dtype, array.tolist()) == (DTYPES[Datatype(datatype)], values)


def _padded(value: int, padding: int) -> bytes:
    """A varint longer than it need be."""
    short = protowire.encode_varint(value)
    padding = min(padding, 10 - len(short))
    return short if not padding else short[:-1] + bytes([short[-1] | 0x80]) + b"\x80" * (padding - 1) + b"\0"


@pytest.mark.parametrize("datatype", ["BOOL", "INT32", "INT64", "UINT32", "UINT64"])
@given(data=st.data())
def test_varints_mean_what_protobuf_reads(datatype, data):
    """However long or wide they were written: it keeps the low bits."""
    field, *_ = TYPED[datatype]
    number = InferTensorContents.DESCRIPTOR.fields_by_name[field].number
    one = st.builds(_padded, st.integers(0, 2**64 - 1) | st.integers(0, 300), st.integers(0, 9))
    elements = data.draw(st.lists(one, min_size=1, max_size=12))
    content = b"".join(elements)
    read = InferTensorContents.FromString(protowire.encode_bytes(number, content))
    assert varints(Datatype(datatype), [len(elements)], content).tolist() == list(getattr(read, field))


@pytest.mark.parametrize(
    ("datatype", "values", "at", "value"),
    [
        ("INT8", [0, 128], 1, 128),
        ("INT8", [-129, 500], 0, -129),
        ("INT16", [1, 2, 32768], 2, 32768),
        ("INT16", [-32769], 0, -32769),
        ("UINT8", [255, 256], 1, 256),
        ("UINT16", [65536], 0, 65536),
    ],
)
def test_a_number_too_large_for_its_datatype_is_refused(datatype, values, at, value):
    content = packed(TYPED[datatype][0], values)
    message = told(varints, Datatype(datatype), [len(values)], content)
    assert message == f"input 'x': element {at} is {value}, which is no {datatype}"


@pytest.mark.parametrize("datatype", ["UINT8", "UINT16"])
def test_a_negative_number_is_no_unsigned_one(datatype):
    """Where a client put an int32 into the field: protobuf reads a large uint32."""
    content = packed("int_contents", [-1])
    message = told(varints, Datatype(datatype), [1], content)
    assert message == f"input 'x': element 0 is 4294967295, which is no {datatype}"


@pytest.mark.parametrize(
    ("content", "count", "found"),
    [(b"", 1, 0), (b"\1", 0, 1), (b"\1\2", 1, 2), (b"\1", 2, 1), (b"\x80\1\x80\0", 1, 2)],
)
def test_another_number_of_varints_is_refused(content, count, found):
    for datatype in TYPED:
        message = told(varints, Datatype(datatype), [count], content)
        assert message == f"input 'x' has {found} elements; its shape takes {count}"


@pytest.mark.parametrize(("content", "count", "at"), [(b"\x80", 0, 0), (b"\x80", 1, 0), (b"\1\x80\xff", 1, 1)])
def test_a_varint_cut_short_is_refused(content, count, at):
    for datatype in TYPED:
        assert told(varints, Datatype(datatype), [count], content) == f"input 'x' ends inside element {at}"
