"""Turns an output into its likeliest classes, as Triton's classification extension has it. Child's end only; pure.

Source: github.com/triton-inference-server/server, docs/protocol/extension_classification.md and src/classification.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.types import Datatype, TensorSpec


def classify(spec: TensorSpec, output: NDArray[Any], count: int, *, batched: bool) -> NDArray[Any]:
    """The `count` largest elements of each row, largest first, each as the bytes `value:index[:label]`.

    A row is all of the output but its batch axis, flat; without a batch the whole output is one row and the answer has
    one axis, else the answer is [rows, classes]. There are at most as many classes as elements. The value has six
    places where it is no integer, the label is left out where the manifest has none for the index. Of equal elements
    the first comes first; NaN comes last.
    """
    values = _as_numbers(spec.datatype, output)
    rows = values.reshape(len(values), -1) if batched and len(values) else values.reshape(1, -1)
    size = int(np.prod(output.shape[1:], dtype=np.int64)) if batched else rows.shape[1]
    found = np.empty((len(values) if batched else 1, min(count, size)), object)
    for row, into in zip(rows, found, strict=False):
        indices = _largest(row, len(into))
        into[:] = [_text(row[index], index, spec.labels) for index in indices.tolist()]
    return found if batched else found.reshape(-1)


def _as_numbers(datatype: Datatype, output: NDArray[Any]) -> NDArray[Any]:
    if datatype is Datatype.BF16:  # its bits are the upper half of an FP32's
        return (output.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return output


def _largest(row: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The indices of the `count` largest elements of `row`, largest first."""
    if not count:
        return np.empty(0, np.int64)
    keys = np.where(np.isnan(row), -np.inf, row) if row.dtype.kind == "f" else row
    least = np.partition(keys, len(keys) - count)[len(keys) - count]
    above = np.flatnonzero(keys > least)
    chosen = np.sort(np.concatenate((above, np.flatnonzero(keys == least)[: count - len(above)])))
    return chosen[count - 1 - np.argsort(keys[chosen][::-1], kind="stable")[::-1]]


def _text(value: Any, index: int, labels: Sequence[str]) -> bytes:
    number = f"{value:f}" if isinstance(value, np.floating) else str(value)
    label = labels[index] if index < len(labels) else ""
    return (f"{number}:{index}:{label}" if label else f"{number}:{index}").encode()
