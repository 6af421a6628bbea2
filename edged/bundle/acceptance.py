"""What a golden demands, held against what a worker measured. Pure: trials and `edgectl` judge alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from edged.bundle.manifest import Golden
from edged.errors import Code
from edged.types import Comparison


class Verdict(msgspec.Struct, frozen=True):
    """Whether a golden holds, and in words why or why not; `code` is None exactly when it does."""

    ok: bool
    code: Code | None
    text: str


def judge(golden: Golden, measured: Sequence[Comparison]) -> Verdict:
    """Whether every output is as `golden` demands: within its tolerance or, where it gives one, its agreement."""
    objections = [text for output in measured for text in _objections(golden, output)]
    if not measured:
        objections.append(f"{golden.file}: no output was compared")
    if objections:
        return Verdict(ok=False, code=Code.GOLDEN_MISMATCH, text="; ".join(objections))
    outputs = ", ".join(output.output for output in measured)
    return Verdict(ok=True, code=None, text=f"{golden.file}: as expected: {outputs}")


def _objections(golden: Golden, measured: Comparison) -> Iterator[str]:
    where = f"{golden.file}: output {measured.output}"
    note = f" ({measured.note})" if measured.note else ""
    if not measured.shape_matches:
        yield f"{where}: has another shape than expected{note}"
    elif measured.rows == 0:
        yield f"{where}: the golden holds no rows{note}"
    elif golden.agreement is not None:
        if measured.agreeing_rows / measured.rows < golden.agreement:
            share = f"{measured.agreeing_rows} of {measured.rows} rows agree"
            yield f"{where}: {share} (the least allowed share is {golden.agreement}){note}"
    elif measured.outside:
        worst = f"{measured.outside} of {measured.elements} elements differ by up to {measured.worst_abs:g}"
        yield f"{where}: {worst} (allowed {golden.atol:g} + {golden.rtol:g}·|expected|){note}"
