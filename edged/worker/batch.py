"""Merges the members of a batch along axis 0 and splits what comes out again. Child's end only; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import Code, EdgedError
from edged.types import TensorSpec


def merge(members: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array of all the members' rows. The parts agree in datatype and in every axis but the first."""
    return members[0] if len(members) == 1 else np.concatenate(members, axis=0)


def split(output: NDArray[Any], rows: Sequence[int]) -> list[NDArray[Any]]:
    """The members' rows of an output of sum(rows) rows, as views."""
    if len(rows) == 1:
        return [output]
    parts = []
    at = 0
    for count in rows:
        parts.append(output[at : at + count])
        at += count
    return parts


def check_output(spec: TensorSpec, output: NDArray[Any], dtype: np.dtype[Any], rows: int | None) -> None:
    """Holds an output against its declaration; `rows` is what axis 0 must be, None where there is no batch.

    Raises EdgedError (inference_failed): a model that answers in another shape than declared is at fault.
    """
    if output.dtype != dtype:
        raise EdgedError(
            Code.INFERENCE_FAILED, f"output {spec.name!r} came as {output.dtype}, declared is {spec.datatype}"
        )
    wanted = spec.shape if rows is None else (rows, *spec.shape[1:])
    if len(output.shape) != len(wanted) or any(
        want not in (-1, came) for want, came in zip(wanted, output.shape, strict=True)
    ):
        raise EdgedError(
            Code.INFERENCE_FAILED,
            f"output {spec.name!r} came with shape {list(output.shape)}, declared is {list(wanted)}",
        )


def row_bytes(spec: TensorSpec) -> int:
    """What a row of an output takes, axis 0 being the batch; 0 where its declaration leaves that open."""
    return 0 if -1 in spec.shape[1:] else math.prod(spec.shape[1:]) * spec.datatype.size


def empty_output(spec: TensorSpec, dtype: np.dtype[Any]) -> NDArray[Any]:
    """What a batch without rows gives; free dimensions are as empty as the batch."""
    return np.empty([0, *(max(size, 0) for size in spec.shape[1:])], dtype)
