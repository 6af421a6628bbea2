"""What a worker says of its results is counted where it can be, and believed no further."""

from __future__ import annotations

import pytest

from edged.bundle.manifest import Drift, File, Manifest, Variant
from edged.serving.observed import Observed
from edged.types import Datatype, TensorSpec
from edged.worker.messages import Counted


@pytest.fixture
def observed():
    """Two outputs, of which the first has three bins."""
    tensors = (TensorSpec("x", Datatype.FP32, (-1,)),)
    drift = (
        Drift(output="x", kind="classes", reference=(5, 3, 2)),
        Drift(output="x", kind="value", reference=(0.0, 1.0, 2.0)),
    )
    variants = (Variant(name="v", runtime="onnxruntime", file="model.onnx"),)
    files = (File(path="model.onnx", size=1, sha256="0" * 64),)
    made = Manifest(name="m", revision=1, inputs=tensors, outputs=tensors, variants=variants, files=files, drift=drift)
    return Observed(made)


def test_results_are_counted_until_they_are_collected(observed):
    for _ in range(2):
        observed.take("v", [Counted(0, (2, 0), (1, 4), 1), Counted(1, (1,), (3,), 0)])
    assert [(each.kind, each.counts, each.flagged) for each in observed.collect()] == [
        ("classes", (8, 0, 2), 2),
        ("value", (0, 6), 0),
    ]
    assert list(observed.collect()) == []


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(Counted(2, (0,), (1,), 0), id="an output that is not watched"),
        pytest.param(Counted(-1, (0,), (1,), 0), id="one from the end"),
        pytest.param(Counted(0, (3,), (1,), 0), id="a bin that there is not"),
        pytest.param(Counted(0, (-1,), (1,), 0), id="a bin from the end"),
        pytest.param(Counted(0, (0, 1), (1,), 0), id="bins without counts"),
        pytest.param(Counted(0, (0,), (-1,), 0), id="fewer than none"),
        pytest.param(Counted(0, (0,), (2**63,), 0), id="more than there can be"),
        pytest.param(Counted(0, (0,), (1,), -1), id="fewer than none to be reviewed"),
    ],
)
def test_what_cannot_be_is_passed_over(observed, said):
    observed.take("v", [said, Counted(0, (1,), (1,), 0)])
    assert [(each.counts, each.flagged) for each in observed.collect()] == [((0, 1, 0), 0)]
