"""JSON as inputs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.ctl import nested
from edged.ctl.faults import WrongInputError
from edged.ctl.samples import Sample
from edged.types import Datatype, TensorSpec


def spec(datatype: Datatype = Datatype.FP32, *shape: int, name: str = "x") -> TensorSpec:
    return TensorSpec(name, datatype, shape or (-1, -1))


def sample(data: Any) -> Sample:
    return Sample("in.json", ".json", json.dumps(data).encode())


def one(data: Any, wanted: TensorSpec) -> Any:
    return nested.inputs(sample(data), [wanted])[wanted.name]


def refusal(data: Any, *wanted: TensorSpec) -> str:
    with pytest.raises(WrongInputError) as caught:
        nested.inputs(data if isinstance(data, Sample) else sample(data), wanted)
    return str(caught.value)


@pytest.mark.parametrize(
    ("datatype", "data", "dtype"),
    [
        (Datatype.BOOL, [[True, False]], np.bool_),
        (Datatype.UINT8, [[0, 255]], np.uint8),
        (Datatype.INT8, [[-128, 127]], np.int8),
        (Datatype.UINT64, [[2**64 - 1, 0]], np.uint64),
        (Datatype.INT64, [[-(2**63), 2**63 - 1]], np.int64),
        (Datatype.FP16, [[65504, -0.5]], np.float16),
        (Datatype.FP32, [[1, 2.5]], np.float32),
        (Datatype.FP64, [[1e308, -1e-300]], np.float64),
    ],
)
def test_values_arrive_as_they_are(datatype: Datatype, data: Any, dtype: type):
    found = one({"x": data}, spec(datatype))
    assert found.dtype == dtype
    assert found.tolist() == data


def test_strings_are_bytes():
    found = one([["é", ""]], spec(Datatype.BYTES))
    assert found.shape == (1, 2)
    assert found.tolist() == [["é".encode(), b""]]


def test_bf16_takes_the_nearest_value():
    found = one([[1, -2, 3.140625, 1.00390625]], spec(Datatype.BF16))
    assert found.tolist() == [[0x3F80, 0xC000, 0x4049, 0x3F80]]  # the last is a tie, and goes to the even one


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 256), min_size=1))
def test_bf16_is_off_by_at_most_half_a_step(values: list[float]):
    bits = nested.to_bf16(np.array(values, np.float32))
    back = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    np.testing.assert_allclose(back, values, rtol=2**-8, atol=1e-40)


def test_bare_lists_are_for_the_only_input():
    assert one([[1, 2], [3, 4]], spec()).tolist() == [[1, 2], [3, 4]]
    assert one([1, 2], spec()).shape == (1, 2)  # the batch axis was missing
    assert one(5, spec(Datatype.INT32, 1)).tolist() == [5]
    assert one([], spec()).shape == (1, 0)
    said = refusal([[1]], spec(name="a"), spec(name="b"))
    assert said == 'in.json names no inputs, and the model takes 2; give {"a": [...], "b": [...]}'


@pytest.mark.parametrize(
    ("datatype", "data", "place", "allowed"),
    [
        (Datatype.FP32, [[1, "2"]], 'x[0][1] is "2"', "FP32 takes numbers up to ±3.4e+38"),
        (Datatype.FP32, [[1, 1e39]], "x[0][1] is 1e+39", "FP32 takes numbers up to"),
        (Datatype.FP16, [[65520]], "x[0][0] is 65520", "FP16 takes numbers up to ±6.55e+04"),
        (Datatype.FP32, [[True]], "x[0][0] is true", "FP32 takes numbers"),
        (Datatype.FP32, [[None]], "x[0][0] is null", "FP32 takes numbers"),
        (Datatype.FP32, [[{}]], "x[0][0] is a table", "FP32 takes numbers"),
        (Datatype.UINT8, [[256]], "x[0][0] is 256", "UINT8 takes whole numbers from 0 to 255"),
        (Datatype.INT32, [[1], [1.5]], "x[1][0] is 1.5", "INT32 takes whole numbers"),
        (Datatype.INT64, [[2**63]], f"x[0][0] is {2**63}", "INT64 takes whole numbers"),
        (Datatype.BOOL, [[1]], "x[0][0] is 1", "BOOL takes true and false"),
        (Datatype.BYTES, [[1]], "x[0][0] is 1", "BYTES takes strings"),
    ],
)
def test_what_is_no_such_value_is_named_with_its_place(datatype: Datatype, data: Any, place: str, allowed: str):
    said = refusal(data, spec(datatype))
    assert said.startswith(f"in.json: {place}; {allowed}")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([[1, 2], [3]], "x[1] has 1 elements; the first list of its level has 2"),
        ([[1, 2], None], "x[1] is null, where lists stand elsewhere; give 2 elements"),
        ([[1, 2], 3], "x[1] is 3, where lists stand elsewhere; give 2 elements"),
        ([1, [2]], "x[1] is a list, where a value stands elsewhere"),
        ([[[[1]]]], "has shape [1, 1, 1, 1]; the model takes [-1, -1] (-1 is free)"),
    ],
)
def test_lists_that_make_no_array_are_refused(data: Any, said: str):
    assert said in refusal(data, spec())


def test_names_that_do_not_fit_are_told_with_those_that_do():
    assert "holds 'z', which is no input; the model's inputs are: x" in refusal({"z": [1]}, spec())
    assert "holds no 'x'" in refusal({}, spec())


@pytest.mark.parametrize("content", [b"", b"{", b"[1", b'{"x": \xff}', b"[NaN]", b"[" * 100_000, b"nonsense"])
def test_what_is_no_json_is_refused(content: bytes):
    said = refusal(Sample("in.json", ".json", content), spec())
    assert said.startswith("in.json is not JSON: ")
    assert said.endswith('give {"x": [...]}')


def test_lists_deeper_than_any_array_are_refused():
    deep = Sample("in.json", ".json", b"[" * 500 + b"]" * 500)
    assert refusal(deep, spec()).startswith("in.json: x[0]")
