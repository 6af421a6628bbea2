"""How far answers lie from what was expected."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.types import Comparison, Datatype
from edged.worker.codec import DTYPES
from edged.worker.compare import compare

NAN, INF = math.nan, math.inf
FLOATS = {"FP16": 16, "FP32": 32, "FP64": 64}


def array(datatype: str, values: Any, shape: Any = None) -> np.ndarray:
    if datatype == "BF16":
        values = (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    found = np.asarray(values, DTYPES[Datatype(datatype)])
    return found if shape is None else found.reshape(shape)


def compared(datatype: str, answer: Any, expected: Any, atol: float = 0, rtol: float = 0) -> Comparison:
    return compare("y", Datatype(datatype), array(datatype, answer), array(datatype, expected), atol, rtol)


def test_a_comparison_says_all():
    found = compared("FP32", [[1, 2, 3], [4, 5, 7]], [[1, 2, 3.5], [4, 9, 7]])
    assert found == Comparison(
        output="y", elements=6, outside=2, worst_abs=4, rows=2, agreeing_rows=1, shape_matches=True, note=""
    )


@pytest.mark.parametrize(
    ("answer", "expected", "atol", "rtol", "within"),
    [
        (1.0, 1.0, 0, 0, True),
        (-0.0, 0.0, 0, 0, True),
        (1.5, 1.0, 0.5, 0, True),
        (1.5, 1.0, 0.25, 0, False),
        (1.5, 1.0, 0, 0.5, True),
        (1.5, 1.0, 0.25, 0.25, True),
        (1.5, -1.0, 0, 2, False),  # what is expected is the measure, not what came
        (-1.0, 1.5, 0, 2, True),
        (NAN, NAN, 0, 0, True),
        (NAN, 1.0, 9, 9, False),
        (1.0, NAN, 9, 9, False),
        (NAN, INF, 9, 9, False),
        (INF, INF, 0, 0, True),
        (-INF, -INF, 0, 0.5, True),
        (INF, -INF, 9, 9, False),
        (1.0, INF, 0, 0.5, False),
        (1.0, INF, 0, 0, False),
        (INF, 1.0, 9, 9, False),
    ],
)
def test_the_tolerance_is_absolute_and_relative(answer, expected, atol, rtol, within):
    for datatype in (*FLOATS, "BF16"):
        assert compared(datatype, [answer], [expected], atol, rtol).outside == (not within)


@pytest.mark.parametrize(
    ("answer", "expected", "worst"),
    [
        ([], [], 0.0),
        ([1, 2], [1, 2], 0.0),
        ([1, 2], [1.5, -2], 4.0),
        ([NAN, 1], [NAN, 1.25], 0.25),
        ([INF, 1], [INF, 1], 0.0),
        ([NAN, 1], [1, 1], INF),
        ([1, 1], [INF, 1], INF),
        ([INF], [-INF], INF),
    ],
)
def test_the_worst_distance_is_told(answer, expected, worst):
    for datatype in (*FLOATS, "BF16"):
        assert compared(datatype, answer, expected, 100, 0).worst_abs == worst


@pytest.mark.parametrize("datatype", FLOATS)
@given(data=st.data(), atol=st.sampled_from([0, 1e-5, 0.5]), rtol=st.sampled_from([0, 1e-4, 0.5, 1]))
@example(data=None, atol=0, rtol=1)
def test_within_is_what_numpy_calls_close(datatype, data, atol, rtol):
    special = [0.0, -0.0, 1.0, 1.00005, 0.5, NAN, INF, -INF, float(np.finfo(DTYPES[Datatype(datatype)]).max)]
    if data is None:
        pairs = [(one, other) for one in special for other in special]
    else:
        one = st.sampled_from(special) | st.floats(width=FLOATS[datatype])
        pairs = data.draw(st.lists(st.tuples(one, one) | one.map(lambda same: (same, same)), max_size=8))
    with np.errstate(over="ignore"):
        answer, expected = (array(datatype, [pair[side] for pair in pairs]) for side in (0, 1))
    with np.errstate(all="ignore"):
        close = np.isclose(answer.astype(float), expected.astype(float), rtol=rtol, atol=atol, equal_nan=True)
    found = compare("y", Datatype(datatype), answer, expected, atol, rtol)
    assert found.outside == np.count_nonzero(~close)


@pytest.mark.parametrize("datatype", ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"])
@given(data=st.data(), atol=st.sampled_from([0, 1, 100]))
def test_integers_are_compared_exactly(datatype, data, atol):
    """Also where a double has no neighbours."""
    limits = np.iinfo(DTYPES[Datatype(datatype)])
    one = st.integers(int(limits.min), int(limits.max)) | st.sampled_from([int(limits.min), int(limits.max)])
    near = one.flatmap(
        lambda value: st.tuples(
            st.just(value), st.integers(max(value - 2, int(limits.min)), min(value + 2, int(limits.max)))
        )
    )
    pairs = data.draw(st.lists(st.tuples(one, one) | near, max_size=8))
    found = compared(datatype, [answer for answer, _ in pairs], [expected for _, expected in pairs], atol)
    distances = [abs(answer - expected) for answer, expected in pairs]
    assert found.outside == sum(distance > atol for distance in distances)
    assert found.worst_abs == float(max(distances, default=0))


@pytest.mark.parametrize(
    ("datatype", "answer", "expected", "outside", "worst"),
    [
        ("BOOL", [True, False], [True, False], 0, 0.0),
        ("BOOL", [True, True], [True, False], 1, 1.0),
        ("BYTES", [b"a", b""], [b"a", b""], 0, 0.0),
        ("BYTES", [b"a", b"b\0"], [b"a", b"b"], 1, 1.0),
        ("BYTES", [b"x", b"y"], [b"a", b"b"], 2, 1.0),
    ],
)
def test_bools_and_strings_are_the_same_or_not(datatype, answer, expected, outside, worst):
    """No tolerance makes one string the other."""
    found = compared(datatype, answer, expected, 100, 100)
    assert (found.outside, found.worst_abs) == (outside, worst)


@pytest.mark.parametrize(
    ("came", "expected"), [((2, 3), (3, 2)), ((6,), (2, 3)), ((2, 3), (2, 4)), ((0, 3), (2, 3)), ((), (1,))]
)
def test_other_shapes_are_not_compared(came, expected):
    for datatype in Datatype:
        empty = b"" if datatype is Datatype.BYTES else 0
        answer, wanted = (np.full(shape, empty, DTYPES[datatype]) for shape in (came, expected))
        found = compare("y", datatype, answer, wanted, 9, 9)
        assert (found.shape_matches, found.agreeing_rows, found.worst_abs) == (False, 0, INF)
        assert found.outside == found.elements == wanted.size
        assert found.note == f"came with shape {list(came)}, expected {list(expected)}"


@pytest.mark.parametrize(
    ("datatype", "answer", "expected", "rows", "agreeing"),
    [
        ("FP32", [[1, 9, 2], [9, 1, 2]], [[0, 1, 0], [0, 0, 1]], 2, 1),
        ("FP32", [[[1, 2], [2, 1]], [[1, 2], [2, 1]]], [[[0, 1], [0, 1]], [[1, 0], [1, 0]]], 4, 2),
        ("FP32", [3, 1, 2], [1, 0, 0], 1, 1),
        ("FP32", [[1], [2]], [[8], [9]], 2, 2),  # a row of one element has no other largest
        ("FP32", 5.0, 6.0, 1, 1),
        ("FP32", [[2, 2]], [[1, 1]], 1, 1),  # of equals the first
        ("FP64", [[NAN, 1]], [[NAN, 2]], 1, 1),
        ("FP16", [[-INF, INF]], [[0, 1]], 1, 1),
        ("BF16", [[-3, -1]], [[-9, -8]], 1, 1),  # as numbers, not as bits
        ("BF16", [[-1, 1]], [[1, -1]], 1, 0),
        ("INT8", [[-1, 1]], [[-9, 9]], 1, 1),
        ("UINT64", [[1, 2**63]], [[5, 6]], 1, 1),
        ("BOOL", [[False, True], [True, False]], [[False, True], [False, True]], 2, 1),
        ("BYTES", [[b"a", b"b"], [b"a", b"c"]], [[b"a", b"b"], [b"a", b"b"]], 2, 1),
        ("BYTES", b"a", b"a", 1, 1),
        ("BYTES", b"a", b"b", 1, 0),
    ],
)
def test_a_row_agrees_whose_largest_element_is_the_expected_one(datatype, answer, expected, rows, agreeing):
    found = compared(datatype, answer, expected)
    assert (found.rows, found.agreeing_rows) == (rows, agreeing)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_nothing_agrees_with_nothing(shape):
    for datatype in Datatype:
        nothing = np.empty(shape, DTYPES[datatype])
        assert compare("y", datatype, nothing, nothing, 0, 0) == Comparison("y", 0, 0, 0.0, 0, 0, True)


@pytest.mark.parametrize(
    ("datatype", "value", "other"), [("FP32", 1.5, 2.0), ("INT64", 2**60, 2**60 + 1), ("BOOL", True, False)]
)
def test_a_scalar_is_compared_too(datatype, value, other):
    assert compared(datatype, value, value).outside == 0
    assert compared(datatype, value, other).outside == 1
