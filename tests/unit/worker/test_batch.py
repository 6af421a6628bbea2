"""Members merged along axis 0, and split again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Code, EdgedError
from edged.types import Datatype, TensorSpec
from edged.worker import batch
from edged.worker.codec import DTYPES


def members_of(data: st.DataObject, datatype: Datatype, rows: list[int]) -> list[np.ndarray]:
    """Arrays of any bits that agree in every axis but the first."""
    rest = data.draw(st.lists(st.integers(0, 3), max_size=3))
    members = []
    for count in rows:
        size = count * int(np.prod(rest))
        if datatype is Datatype.BYTES:
            array = np.empty(size, object)
            array[:] = data.draw(st.lists(st.binary(max_size=5), min_size=size, max_size=size))
        else:
            content = data.draw(st.binary(min_size=size * datatype.size, max_size=size * datatype.size))
            array = np.frombuffer(content, DTYPES[datatype])
        members.append(array.reshape(count, *rest))
    return members


@pytest.mark.parametrize("datatype", Datatype)
@given(data=st.data(), rows=st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_what_was_merged_is_split_bit_by_bit(datatype, data, rows):
    members = members_of(data, datatype, rows)
    merged = batch.merge(members)
    assert (merged.shape[0], merged.dtype) == (sum(rows), DTYPES[datatype])
    parts = batch.split(merged, rows)
    assert [part.shape for part in parts] == [member.shape for member in members]
    assert [part.dtype for part in parts] == [member.dtype for member in members]
    if datatype is Datatype.BYTES:
        assert [part.tolist() for part in parts] == [member.tolist() for member in members]
    else:
        assert [part.tobytes() for part in parts] == [member.tobytes() for member in members]


def test_one_member_is_not_copied():
    array = np.zeros((3, 2), np.float32)
    assert batch.merge([array]) is array
    assert batch.split(array, [3])[0] is array


def test_parts_are_views():
    array = np.zeros((3, 2), np.float32)
    assert all(np.shares_memory(part, array) for part in batch.split(array, [1, 2]))


@pytest.mark.parametrize(
    ("shape", "output", "rows"),
    [
        ((-1, 3), (4, 3), 4),
        ((-1, -1), (4, 0), 4),
        ((-1, -1), (4, 9), 4),
        ((-1,), (0,), 0),
        ((), (), None),
        ((2, -1), (2, 7), None),
        ((-1,), (5,), None),
    ],
)
def test_an_output_as_declared_passes(shape, output, rows):
    batch.check_output(TensorSpec("y", Datatype.FP32, shape), np.zeros(output, np.float32), DTYPES[Datatype.FP32], rows)


@pytest.mark.parametrize(("datatype", "dtype", "name"), [("FP32", np.float64, "float64"), ("BYTES", np.uint8, "uint8")])
def test_an_output_of_another_datatype_is_the_models_fault(datatype, dtype, name):
    spec = TensorSpec("y", Datatype(datatype), (-1,))
    with pytest.raises(EdgedError) as caught:
        batch.check_output(spec, np.zeros(2, dtype), DTYPES[spec.datatype], 2)
    assert caught.value.code is Code.INFERENCE_FAILED
    assert caught.value.message == f"output 'y' came as {name}, declared is {datatype}"


@pytest.mark.parametrize(
    ("shape", "output", "rows", "wanted"),
    [
        ((-1, 3), (4, 3, 1), 4, [4, 3]),
        ((-1, 3), (4,), 4, [4, 3]),
        ((-1,), (), 4, [4]),
        ((-1, 3), (3, 3), 4, [4, 3]),
        ((-1, 3), (5, 3), 4, [4, 3]),
        ((-1, 3), (0, 3), 4, [4, 3]),
        ((-1, 3), (4, 2), 4, [4, 3]),
        ((-1, 3, -1), (4, 2, 1), 4, [4, 3, -1]),
        ((2, -1), (3, 1), None, [2, -1]),
        ((), (1,), None, []),
    ],
)
def test_an_output_of_another_shape_is_the_models_fault(shape, output, rows, wanted):
    spec = TensorSpec("y", Datatype.FP32, shape)
    with pytest.raises(EdgedError) as caught:
        batch.check_output(spec, np.zeros(output, np.float32), DTYPES[Datatype.FP32], rows)
    assert caught.value.code is Code.INFERENCE_FAILED
    assert caught.value.message == f"output 'y' came with shape {list(output)}, declared is {wanted}"


@pytest.mark.parametrize(
    ("shape", "empty"), [((-1,), (0,)), ((-1, 3), (0, 3)), ((-1, -1), (0, 0)), ((-1, 2, -1, 4), (0, 2, 0, 4))]
)
def test_no_rows_give_no_rows(shape, empty):
    for datatype in Datatype:
        spec = TensorSpec("y", datatype, shape)
        output = batch.empty_output(spec, DTYPES[datatype])
        assert (output.shape, output.dtype) == (empty, DTYPES[datatype])
        batch.check_output(spec, output, DTYPES[datatype], 0)
