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
from edged.update import agent as agents
from edged.update import plan as plans
from edged.update.machine import Event, Phase

_NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
_AT_TWO = plans.ClassPlan(revision=2, windows=(plans.Window(start="14:00", duration_s=3600, zone="utc"),))
_DAY_S = 86_400.0


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


class TestAWindow:
    def test_of_the_plan_is_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with walking(tmp_path, monkeypatch, _AT_TWO) as found:
            assert _looks(found, _AT_TWO, 60.0) == (Phase.SHADOW, 1)
            assert "window of the plan" in found.life.agent.courses["a"].state.deferred
            monkeypatch.setattr(clock, "wall", lambda: _NOON.replace(hour=14, minute=30))
            assert _passes(found, 60.0)[1] == 2

    def test_of_the_settings_is_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        local = _NOON.astimezone()
        later = (local.hour + 2) % 24
        with walking(tmp_path, monkeypatch, plans.ClassPlan(revision=1)) as found:
            settings = found.life.shop.settings
            found.life.shop.settings = msgspec.structs.replace(settings, window=f"{later:02}:00-{later:02}:59")
            assert _looks(found, plans.ClassPlan(revision=2), 60.0) == (Phase.SHADOW, 1)
            assert "maintenance window" in found.life.agent.courses["a"].state.deferred
            found.life.shop.settings = settings
            assert _passes(found, 60.0)[1] == 2

    @pytest.mark.parametrize("ends", ["cut", "restart"])
    def test_is_known_after_a_start_that_reaches_no_repository(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
    ):
        with walking(tmp_path, monkeypatch, _AT_TWO) as found:
            assert _looks(found, _AT_TWO, 60.0) == (Phase.SHADOW, 1)
            found.outside.fetch = "download_failed"
            found.take((ends, ()))
            assert _passes(found, 600.0) == (Phase.SHADOW, 1)
            monkeypatch.setattr(clock, "wall", lambda: _NOON.replace(hour=14, minute=30))
            assert _passes(found, 60.0)[1] == 2

    def test_that_a_later_plan_took_back_is_forgotten(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with walking(tmp_path, monkeypatch, _AT_TWO) as found:
            assert _looks(found, _AT_TWO, 60.0) == (Phase.SHADOW, 1)
            found.outside.terms["a"] = plans.ClassPlan(revision=2)
            found.take(("nudge", ()))
            found.take(("sleep", (0.6,)))
            found.outside.fetch = "download_failed"
            found.take(("cut", ()))
            assert _passes(found, 60.0)[1] == 2


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

    @pytest.mark.parametrize("settled", [False, True])
    def test_that_is_aborted_is_gone_back_on_before_any_turn_to_download(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
    ):
        jitter = {"download_jitter_s": 30 * 86_400}
        with walking(tmp_path, monkeypatch, self.terms) as found:
            found.take(("nudge", ()))
            found.take(("until", ("a", Phase.SOAKING)))
            if settled:
                found.take(("until", ("a", Phase.IDLE)))
            aborted = msgspec.structs.replace(self.stopped("aborted"), **jitter)
            assert _looks(found, aborted, 600.0) == (Phase.IDLE, 1)


class TestATurnToDownload:
    terms = plans.ClassPlan(revision=2, download_jitter_s=30 * 3600)
    turn_s = plans.jitter("a/2", "d", terms.download_jitter_s)

    def test_comes_after_the_devices_share_of_the_jitter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with walking(tmp_path, monkeypatch, self.terms) as found:
            assert _looks(found, self.terms, self.turn_s - 60) == (Phase.IDLE, 1)
            assert "spread over the fleet" in found.life.agent.decisions["a"].why
            assert _passes(found, 400.0)[1] == 2

    def test_is_not_waited_for_by_who_asks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with walking(tmp_path, monkeypatch, self.terms) as found:
            found.take(("look", ()))
            assert _passes(found, 60.0)[1] == 2

    @pytest.mark.parametrize("ends", ["cut", "restart"])
    def test_comes_to_a_device_that_is_switched_off_each_day(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
    ):
        day_s = 8 * 3600.0
        days = int(self.turn_s / day_s)
        assert days >= 1
        with walking(tmp_path, monkeypatch, self.terms) as found:
            for _ in range(days):
                assert _passes(found, day_s) == (Phase.IDLE, 1)
                found.take((ends, ()))
            assert _passes(found, day_s)[1] == 2

    def test_comes_to_a_device_whose_power_is_cut_more_often_than_it_looks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        terms = msgspec.structs.replace(self.terms, download_jitter_s=4 * 3600)
        turn_s, life_s = plans.jitter("a/2", "d", terms.download_jitter_s), 2 * agents._KEEP_S
        assert turn_s > 3 * life_s
        with walking(tmp_path, monkeypatch, terms) as found:
            assert life_s < found.life.shop.settings.poll_s
            lives = int(turn_s / agents._KEEP_S) + 2
            for _ in range(lives):
                if _passes(found, life_s)[1] == 2:
                    break
                found.take(("cut", ()))
            assert _phase(found)[1] == 2

    def test_is_written_now_and_then_while_it_is_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with walking(tmp_path, monkeypatch, self.terms) as found:
            journal, written = found.life.journal, []
            keep = journal.keep_fact
            monkeypatch.setattr(journal, "keep_fact", lambda *fact: (written.append(fact[0]), keep(*fact)))
            _passes(found, day_s := 8 * 3600.0)
            assert 1 <= written.count("share") <= day_s / agents._KEEP_S + 1
            written.clear()
            assert _passes(found, self.turn_s - day_s + _DAY_S)[1] == 2
            written.clear()
            _passes(found, _DAY_S)
            assert written.count("share") == 0

    def test_of_another_revision_is_another(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with walking(tmp_path, monkeypatch, self.terms) as found:
            assert _looks(found, self.terms, self.turn_s - 60) == (Phase.IDLE, 1)
            other = msgspec.structs.replace(self.terms, revision=3)
            assert _looks(found, other, 400.0) == (Phase.IDLE, 1)
            rows = [each.event for each in found.life.journal.history("a")]
            assert Event.WANTED not in rows
