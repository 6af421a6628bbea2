"""Inputs that `edgectl bench` makes up."""

from __future__ import annotations

import numpy as np
import pytest

from edged.ctl import invented
from edged.ctl.faults import WrongInputError
from edged.types import Datatype, TensorSpec
from edged.worker.codec import DTYPES, decode, encode
from edged.worker.messages import Form


def chance() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("datatype", Datatype)
def test_every_datatype_is_made_in_its_shape(datatype: Datatype):
    spec = TensorSpec("x", datatype, (-1, 3, -1, 2))
    array = invented.arrays([spec], 4, batches=True, chance=chance())["x"]
    assert (array.shape, array.dtype) == ((4, 3, 1, 2), DTYPES[datatype])
    sent = memoryview(bytes(encode(array, datatype)))
    back = decode("x", datatype, array.shape, Form.RAW, sent)
    assert back.tolist() == array.tolist()
    assert len(set(map(str, array.reshape(-1).tolist()))) > 1


def test_values_lie_where_models_take_them():
    def made(datatype: Datatype) -> np.ndarray:
        return invented.arrays([TensorSpec("x", datatype, (1000,))], 1, batches=False, chance=chance())["x"]

    assert 0 <= made(Datatype.FP32).min() < made(Datatype.FP32).max() <= 1
    bits = made(Datatype.BF16).astype("<u4") << 16
    assert 0 <= bits.view("<f4").min() < bits.view("<f4").max() <= 1
    assert set(made(Datatype.INT64).tolist()) == {0, 1}
    assert made(Datatype.UINT8).max() > 200


def test_rows_want_a_batch_axis():
    with pytest.raises(WrongInputError, match="no batch axis"):
        invented.arrays([TensorSpec("x", Datatype.FP32, (-1, 2))], 2, batches=False, chance=chance())


def test_the_same_chance_makes_the_same():
    spec = TensorSpec("x", Datatype.FP32, (5,))
    first, second = (invented.arrays([spec], 1, batches=False, chance=chance())["x"] for _ in range(2))
    assert first.tolist() == second.tolist()
