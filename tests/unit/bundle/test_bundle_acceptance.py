"""What a golden demands, held against what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from edged.bundle.acceptance import judge
from edged.bundle.manifest import Golden
from edged.errors import Code
from edged.types import Comparison

TOLERANT = Golden(file="goldens.npz")
AGREEING = Golden(file="goldens.npz", agreement=0.99)


def measured(**changes: Any) -> Comparison:
    same = {
        "output": "scores",
        "elements": 640,
        "outside": 0,
        "worst_abs": 1e-6,
        "rows": 64,
        "agreeing_rows": 64,
        "shape_matches": True,
    }
    return Comparison(**(same | changes))


@pytest.mark.parametrize("golden", [TOLERANT, AGREEING])
def test_what_is_as_expected_holds(golden):
    verdict = judge(golden, [measured(), measured(output="boxes")])
    assert (verdict.ok, verdict.code) == (True, None)
    assert verdict.text == "goldens.npz: as expected: scores, boxes"


def test_elements_outside_the_tolerance_are_told_with_it():
    verdict = judge(TOLERANT, [measured(outside=3, worst_abs=0.4)])
    assert (verdict.ok, verdict.code) == (False, Code.GOLDEN_MISMATCH)
    assert verdict.text == (
        "goldens.npz: output scores: 3 of 640 elements differ by up to 0.4 (allowed 1e-05 + 0.0001·|expected|)"
    )


def test_one_element_is_enough():
    assert not judge(TOLERANT, [measured(), measured(output="boxes", outside=1)]).ok


def test_without_an_agreement_rows_do_not_count():
    assert judge(TOLERANT, [measured(agreeing_rows=0)]).ok


def test_with_an_agreement_elements_do_not_count():
    assert judge(AGREEING, [measured(outside=640, worst_abs=float("inf"))]).ok


@pytest.mark.parametrize(
    ("rows", "agreeing", "agreement", "ok"),
    [
        (100, 99, 0.99, True),
        (100, 98, 0.99, False),
        (100, 7, 0.07, True),
        (3, 3, 1.0, True),
        (3, 2, 1.0, False),
        (3, 0, 0.0, True),
        (10_000_000, 9_999_999, 1.0, False),
    ],
)
def test_the_share_of_agreeing_rows_decides(rows, agreeing, agreement, ok):
    golden = Golden(file="goldens.npz", agreement=agreement)
    assert judge(golden, [measured(rows=rows, agreeing_rows=agreeing)]).ok is ok


def test_each_output_must_agree():
    verdict = judge(AGREEING, [measured(), measured(output="boxes", agreeing_rows=60)])
    assert verdict.code is Code.GOLDEN_MISMATCH
    assert verdict.text == "goldens.npz: output boxes: 60 of 64 rows agree (the least allowed share is 0.99)"


@pytest.mark.parametrize("golden", [TOLERANT, AGREEING])
def test_another_shape_is_never_as_expected(golden):
    verdict = judge(golden, [measured(shape_matches=False, note="[64, 9] came, [64, 10] expected")])
    assert verdict.code is Code.GOLDEN_MISMATCH
    assert verdict.text == (
        "goldens.npz: output scores: has another shape than expected ([64, 9] came, [64, 10] expected)"
    )


@pytest.mark.parametrize("golden", [TOLERANT, AGREEING])
def test_no_rows_prove_nothing(golden):
    verdict = judge(golden, [measured(rows=0, agreeing_rows=0, elements=0)])
    assert verdict.code is Code.GOLDEN_MISMATCH
    assert "the golden holds no rows" in verdict.text


@pytest.mark.parametrize("golden", [TOLERANT, AGREEING])
def test_no_outputs_prove_nothing(golden):
    verdict = judge(golden, [])
    assert verdict.code is Code.GOLDEN_MISMATCH
    assert verdict.text == "goldens.npz: no output was compared"


def test_every_objection_is_told():
    verdict = judge(TOLERANT, [measured(outside=1), measured(output="boxes", shape_matches=False)])
    assert "output scores" in verdict.text
    assert "output boxes" in verdict.text
