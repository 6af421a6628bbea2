"""Inputs for a model of which nothing is known but what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.ctl.arrays import as_bytes
from edged.ctl.faults import WrongInputError
from edged.types import Datatype, TensorSpec
from edged.worker.codec import DTYPES

_WORDS = ("a", "bench", "asks", "words", "of", "several", "lengths")


def arrays(specs: Sequence[TensorSpec], rows: int, *, batches: bool, chance: np.random.Generator) -> dict[str, Any]:
    """An array for each input, whatever is free in its shape being 1, the batch axis `rows`.

    Floating point lies between 0 and 1, UINT8 is any (a picture), and other whole numbers are 0 or 1, which are within
    every table that they may index. Raises WrongInputError where there is no batch axis for `rows`.
    """
    if rows > 1 and not batches:
        raise WrongInputError("this model has no batch axis", "leave --rows out")
    found = {}
    for spec in specs:
        shape = [1 if length < 0 else length for length in spec.shape]
        if batches:
            shape[0] = rows
        found[spec.name] = _array(spec.datatype, shape, chance)
    return found


def _array(datatype: Datatype, shape: Sequence[int], chance: np.random.Generator) -> NDArray[Any]:
    match datatype:
        case Datatype.BYTES:
            return as_bytes([str(word) for word in chance.choice(_WORDS, int(np.prod(shape)))]).reshape(shape)
        case Datatype.FP16 | Datatype.FP32 | Datatype.FP64:
            return chance.random(shape).astype(DTYPES[datatype])
        case Datatype.BF16:  # the upper half of an FP32's bits
            bits = chance.random(shape).astype("<f4").view("<u4") >> 16
            return bits.astype(DTYPES[datatype])
        case Datatype.UINT8:
            return chance.integers(0, 256, shape, np.uint8)
    return chance.integers(0, 2, shape).astype(DTYPES[datatype])
