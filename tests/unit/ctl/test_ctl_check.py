"""What `edgectl bundle check` makes of what it found."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest
from support.daemon import DIGITS
from support.deriving import BEST, twice_bundle

from edged.bundle.acceptance import Verdict
from edged.config.settings import Workers
from edged.ctl import check as checking
from edged.ctl.check import Checked, Tried, data, notes, table
from edged.document import Place, Problem
from edged.errors import Code
from edged.models.loading import Terms
from edged.models.selection import PassedOver
from edged.runtimes.base import ENGINES
from edged.system import hardware

GOOD = Verdict(ok=True, code=None, text="goldens.npz: as expected: scores")
BAD = Verdict(ok=False, code=Code.GOLDEN_MISMATCH, text="goldens.npz: output scores: 6 of 64 rows agree")
PASSED_OVER = Tried("tpu", PassedOver("tpu", Code.INCOMPATIBLE_HARDWARE, "needs the accelerator edgetpu"))
LOADED = Tried("fp32", load_s=0.081, peak_bytes=61 * 2**20, verdicts=(("goldens.npz", GOOD),))
FAILED = Tried("int8", load_s=0.5, peak_bytes=2**20, verdicts=(("goldens.npz", GOOD), ("goldens.npz", BAD)))
BROKEN = Tried("broken", fault="model.onnx is no model")


def test_when_a_bundle_is_good():
    assert Checked((), tried=(LOADED,)).verdict == ""
    assert Checked((), tried=(LOADED, PASSED_OVER)).verdict == ""
    assert Checked((), tried=(LOADED, FAILED, BROKEN)).verdict == "2 variants failed: int8, broken"
    assert "none was tried" in Checked((), tried=(PASSED_OVER,)).verdict
    problem = Problem(Place("bundle.toml", 3), "name", "is missing", "give one")
    assert Checked((problem,)).verdict == "1 problem"


def test_a_line_for_each_variant():
    assert list(table(Checked((), tried=(LOADED, FAILED, BROKEN, PASSED_OVER))).rows) == [
        ("fp32", "0.08 s", "1 passed", "61"),
        ("int8", "0.50 s", "1 passed, 1 failed", "1"),
        ("broken", "no", "-", "-"),
        ("tpu", "passed over", "-", "-"),
    ]
    (row,) = table(Checked((), tried=(Tried("bare", load_s=1.0),))).rows
    assert row[2] == "none"


def test_what_the_table_cannot_say():
    assert notes(Checked((), tried=(LOADED, FAILED, BROKEN, PASSED_OVER))) == [
        "fp32: goldens.npz: as expected: scores",
        "int8: goldens.npz: as expected: scores",
        "int8: goldens.npz: output scores: 6 of 64 rows agree",
        "broken does not load: model.onnx is no model",
        "tpu is passed over: needs the accelerator edgetpu (incompatible_hardware)",
    ]


def test_programs_get_all_of_it():
    problem = Problem(Place("bundle.toml", 3), "name", "is missing", "give one")
    assert data(Checked((problem,))) == {
        "good": False,
        "verdict": "1 problem",
        "name": None,
        "revision": None,
        "digest": None,
        "problems": [{"file": "bundle.toml", "line": 3, "key": "name", "found": "is missing", "remedy": "give one"}],
        "warnings": [],
        "variants": [],
    }
    loaded, broken, passed = data(Checked((), tried=(FAILED, BROKEN, PASSED_OVER)))["variants"]
    assert loaded["loads"]
    assert [golden["code"] for golden in loaded["goldens"]] == [None, "golden_mismatch"]
    assert (broken["loads"], broken["fault"]) == (False, "model.onnx is no model")
    assert passed["passed_over"] == {"code": "incompatible_hardware", "reason": "needs the accelerator edgetpu"}
    assert not passed["loads"]


async def test_each_variant_is_started_under_the_settings_given_and_told_of_when_that_fails(
    monkeypatch: pytest.MonkeyPatch,
):
    settings, seen = Workers(threads=3, load_s=7.0), []

    async def no_process(_: Path, __: Any, variant: Any, given: Terms) -> None:
        seen.append((variant.name, given.settings))
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(checking, "start_worker", no_process)
    checked = await checking.check(DIGITS, hardware.read("generic"), {"onnxruntime": "1.25"}, settings)
    assert seen == [("fp32", settings), ("int8", settings)]
    assert checked.verdict == "2 variants failed: fp32, int8"
    assert notes(checked) == [
        f"{variant} does not load: its worker cannot be started: Resource temporarily unavailable"
        for variant in ("fp32", "int8")
    ]


@pytest.mark.skipif(ENGINES["openvino"].version() is None, reason="openvino is not installed")
async def test_a_derived_variant_is_built_and_tried_and_nothing_is_left(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    bundle = twice_bundle(tmp_path, portable=False)
    before = sorted(bundle.iterdir())
    runtimes = {name: engine.version() for name, engine in ENGINES.items()}
    checked = await checking.check(bundle, hardware.read("generic"), runtimes, Workers())
    (tried,) = checked.tried
    assert (checked.verdict, tried.variant, tried.fault) == ("", BEST, "")
    assert [verdict.ok for _, verdict in tried.verdicts] == [True]
    assert (sorted(bundle.iterdir()), list((tmp_path / "temporary").iterdir())) == (before, [])
