"""Measures how far answers lie from what was expected. What that means is judged in `edged/bundle/acceptance.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.types import Comparison, Datatype


def compare(
    output: str, datatype: Datatype, answer: NDArray[Any], expected: NDArray[Any], atol: float, rtol: float
) -> Comparison:
    """Compares one output with what was expected. Both are of the numpy type that stands for `datatype`."""
    if answer.shape != expected.shape:
        note = f"came with shape {list(answer.shape)}, expected {list(expected.shape)}"
        return Comparison(output, expected.size, expected.size, float("inf"), _rows(expected), 0, False, note)
    outside, worst = _differences(datatype, answer, expected, atol, rtol)
    agreeing = _agreeing(datatype, answer, expected)
    return Comparison(output, expected.size, outside, worst, _rows(expected), agreeing, True)


def _differences(
    datatype: Datatype, answer: NDArray[Any], expected: NDArray[Any], atol: float, rtol: float
) -> tuple[int, float]:
    if datatype in (Datatype.BYTES, Datatype.BOOL):
        outside = int(np.count_nonzero(answer != expected))
        return outside, float(outside > 0)
    with np.errstate(invalid="ignore", over="ignore"):  # what has no finite distance is never within
        distances = _distances(datatype, answer, expected)
        allowed = atol + rtol * np.abs(_real(datatype, expected))
        within = (distances == 0) | (np.isfinite(distances) & (distances <= allowed))
    return int(np.count_nonzero(~within)), float(distances.max(initial=0.0))


def _distances(datatype: Datatype, answer: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """|answer - expected|, taken exactly for integers; 0 where both are NaN, infinite where one is."""
    if datatype is not Datatype.BF16 and expected.dtype.kind in "iu":  # float64 has no neighbours above 2⁵³
        came, wanted = answer.astype(np.uint64), expected.astype(np.uint64)
        return np.where(answer > expected, came - wanted, wanted - came).astype(np.float64)
    mine, theirs = _real(datatype, answer), _real(datatype, expected)
    same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    distances = np.abs(mine - theirs)
    return np.where(same, 0.0, np.where(np.isnan(distances), np.inf, distances))


def _real(datatype: Datatype, array: NDArray[Any]) -> NDArray[np.float64]:
    if datatype is Datatype.BF16:  # the upper half of a float32
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def _rows(array: NDArray[Any]) -> int:
    """How often the last axis repeats; a scalar is a row of its own."""
    return array.size // _width(array) if array.size else 0


def _width(array: NDArray[Any]) -> int:
    return array.shape[-1] if array.ndim else 1


def _agreeing(datatype: Datatype, answer: NDArray[Any], expected: NDArray[Any]) -> int:
    if not _rows(expected):
        return 0
    if datatype is Datatype.BYTES:
        return int(np.count_nonzero(np.equal(answer, expected).reshape(-1, _width(expected)).all(axis=1)))
    mine, theirs = _real(datatype, answer), _real(datatype, expected)
    width = _width(expected)
    return int(np.count_nonzero(mine.reshape(-1, width).argmax(axis=1) == theirs.reshape(-1, width).argmax(axis=1)))
