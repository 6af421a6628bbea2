"""A device that goes by a plan: when it may change, when it downloads, what it does as a rollout is stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from support.walks import Walk, walked

from edged import clock
from edged.update import plan as plans
from edged.update.machine import Phase

_NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@contextlib.contextmanager
def walking(folder: Path, patch: pytest.MonkeyPatch, terms: plans.ClassPlan) -> Iterator[Walk]:
    """A device at noon, of whose model `a` the plan says this, which it has not seen."""
    patch.setattr(clock, "wall", lambda: _NOON)
    with walked(folder, [("sleep", (2.0,))]) as found:
        found.outside.terms["a"] = terms
        yield found


def _phase(found: Walk) -> tuple[Phase, int]:
    state = found.life.agent.courses["a"].state
    assert state.serving is not None
    return state.phase, state.serving.revision


def _passes(found: Walk, seconds: float) -> tuple[Phase, int]:
    """Where the model stands after so long."""
    found.take(("sleep", (seconds,)))
    return _phase(found)


def _looks(found: Walk, terms: plans.ClassPlan, seconds: float) -> tuple[Phase, int]:
    """Where the model stands so long after another plan."""
    found.outside.terms["a"] = terms
    found.take(("nudge", ()))
    return _passes(found, seconds)


class TestARollout:
    terms = plans.ClassPlan(revision=1, rollout=plans.Rollout(id="r", revision=2, waves=(plans.Wave(percent=100),)))

    def stopped(self, status: str) -> plans.ClassPlan:
        """The same plan, with its rollout paused or aborted."""
        assert self.terms.rollout is not None
        return msgspec.structs.replace(self.terms, rollout=msgspec.structs.replace(self.terms.rollout, status=status))

    @pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.TRIAL, Phase.SHADOW])
    def test_that_is_paused_is_not_taken_by_who_only_has_it_under_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase
    ):
        with walking(tmp_path, monkeypatch, self.terms) as found:
            found.take(("hold", ("a",)))
            if phase is Phase.TRIAL:
                found.outside.load_s = 100.0
            found.take(("nudge", ()))
            found.take(("until", ("a", phase)))
            assert _phase(found) == (phase, 1)
            assert _looks(found, self.stopped("paused"), 200.0) == (Phase.IDLE, 1)
            found.take(("let_go", ()))
            assert _looks(found, self.terms, 200.0)[1] == 2, "it goes on once the rollout does"

    @pytest.mark.parametrize("settled", [False, True])
    def test_that_is_paused_is_kept_by_who_serves_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
    ):
        with walking(tmp_path, monkeypatch, self.terms) as found:
            found.take(("nudge", ()))
            found.take(("until", ("a", Phase.SOAKING)))
            if settled:
                found.take(("until", ("a", Phase.IDLE)))
            assert _looks(found, self.stopped("paused"), 600.0) == (Phase.IDLE, 2)
