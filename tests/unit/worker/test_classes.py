"""An output as its likeliest classes, held against the sort that Triton describes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edged.types import Datatype, TensorSpec
from edged.worker.classes import classify
from edged.worker.codec import DTYPES

NUMBERS = [each for each in Datatype if each not in (Datatype.BOOL, Datatype.BYTES, Datatype.BF16)]


def spec(datatype: str = "FP32", labels: tuple[str, ...] = ()) -> TensorSpec:
    return TensorSpec("y", Datatype(datatype), (-1, -1), labels)


def by_sorting(row: Any, count: int) -> list[bytes]:
    """Every element, its place and its text, by a plain stable sort."""
    order = sorted(range(len(row)), key=lambda index: (math.isnan(row[index]), -row[index], index))
    form = "{:f}:{}" if isinstance(row[0], float) else "{}:{}"
    return [form.format(row[index], index).encode() for index in order[:count]]


@given(
    st.sampled_from(NUMBERS).flatmap(
        lambda kind: st.tuples(
            st.just(kind), arrays.arrays(DTYPES[kind], arrays.array_shapes(min_dims=2, max_dims=3, max_side=6))
        )
    ),
    st.integers(1, 40),
)
def test_it_is_the_head_of_a_stable_sort(made: tuple[Datatype, Any], count: int) -> None:
    kind, output = made
    found = classify(spec(kind), output, count, batched=True)
    rows = [row.reshape(-1).tolist() for row in output]
    assert found.tolist() == [by_sorting(row, count) for row in rows]
    whole = classify(spec(kind), output, count, batched=False)
    assert whole.tolist() == by_sorting(output.reshape(-1).tolist(), count)


def test_labels_stand_behind_the_index() -> None:
    output = np.array([[0.25, 0.5, 0.125, 0.125]], np.float32)
    found = classify(spec(labels=("cat", "", "grüße")), output, 9, batched=True)
    assert found.tolist() == [[b"0.500000:1", b"0.250000:0:cat", "0.125000:2:grüße".encode(), b"0.125000:3"]]


@pytest.mark.parametrize(
    ("datatype", "values", "wanted"),
    [
        ("INT64", [-(2**63), 2**63 - 1], [f"{2**63 - 1}:1", f"{-(2**63)}:0"]),
        ("UINT64", [0, 2**64 - 1], [f"{2**64 - 1}:1", "0:0"]),
        ("UINT8", [3, 255], ["255:1", "3:0"]),
        ("FP32", [np.nan, -np.inf, np.inf], ["inf:2", "nan:0", "-inf:1"]),
        ("FP16", [1.5, 2.5], ["2.500000:1", "1.500000:0"]),
    ],
)
def test_the_ends_of_a_datatype(datatype: str, values: list[Any], wanted: list[str]) -> None:
    output = np.array([values], DTYPES[Datatype(datatype)])
    assert sorted(classify(spec(datatype), output, 9, batched=True)[0]) == sorted(map(str.encode, wanted))
    assert classify(spec(datatype), output, 1, batched=True)[0, 0] == wanted[0].encode()


def test_bf16_is_read_from_its_bits() -> None:
    output = np.array([[0x3F80, 0xBF80, 0x4040]], np.uint16)  # 1, -1, 3
    assert classify(spec("BF16"), output, 2, batched=True).tolist() == [[b"3.000000:2", b"1.000000:0"]]


@pytest.mark.parametrize(
    ("shape", "batched", "wanted"),
    [
        ((0, 5), True, (0, 3)),
        ((0, 2), True, (0, 2)),
        ((2, 0), True, (2, 0)),
        ((0,), False, (0,)),
        ((2, 3), False, (3,)),
    ],
)
def test_what_is_empty_has_a_shape(shape: tuple[int, ...], batched: bool, wanted: tuple[int, ...]) -> None:
    assert classify(spec(), np.zeros(shape, np.float32), 3, batched=batched).shape == wanted


def test_a_batch_of_single_values_has_one_class_each() -> None:
    found = classify(spec(), np.array([2.0, 1.0], np.float32), 3, batched=True)
    assert found.tolist() == [[b"2.000000:0"], [b"1.000000:0"]]
