"""A worker that ends before its revision serves: once that may be the device's doing, twice it is the revision's."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.walks import Step, Walk, walked

from edged.update.machine import Event, Phase
from edged.update.reasons import Reason

KEY = ("a", 3)
BEGUN: list[Step] = [("sleep", (2.0,)), ("plan", KEY), ("until", ("a", Phase.TRIAL))]

# Seconds after a trial has begun: revision 3 has a spare variant, which is tried first.
SPARE_LOADS, BEST_IS_TRIED = 0.1, 0.7


def kill(walking: Walk) -> None:
    """As the kernel does where memory is short."""
    found = [each for each in walking.life.hands if each.key == KEY]
    assert found
    walking.life.do(lambda: [each.end("killed by SIGKILL") for each in found])


def serves(walking: Walk) -> int:
    state = walking.life.agent.courses["a"].state
    return state.serving.revision if state.serving else 0


def kill_on_trial(walking: Walk, after_s: float) -> None:
    """Kills a worker so long after its trial has begun."""
    for _ in range(10_000):
        if any(each.key == KEY for each in walking.life.hands):
            break
        walking.life.pass_time(0.01)
    walking.life.pass_time(after_s)
    kill(walking)


def kill_in_comparison(walking: Walk) -> None:
    """Kills a worker while its answers are compared."""
    walking.take(("until", ("a", Phase.SHADOW)))
    kill(walking)
    walking.take(("ask", ("a", True)))


@pytest.mark.parametrize("after_s", [SPARE_LOADS, BEST_IS_TRIED])
class TestOnTrial:
    def test_the_first_has_it_begin_anew(self, tmp_path: Path, after_s: float):
        with walked(tmp_path, BEGUN) as walking:
            kill_on_trial(walking, after_s)
            walking.life.pass_time(1.0)
            state = walking.life.agent.courses["a"].state
            assert state.phase is Phase.TRIAL
            assert "it is tried again" in state.deferred
            assert not [each for each in walking.life.hands if each.key == KEY]
            walking.take(("until", ("a", Phase.SHADOW)))
            walking.finish()
            assert serves(walking) == KEY[1]

    def test_the_second_is_the_revisions_own(self, tmp_path: Path, after_s: float):
        with walked(tmp_path, BEGUN) as walking:
            for _ in range(2):
                kill_on_trial(walking, after_s)
                walking.life.pass_time(1.0)
            (found,) = walking.life.journal.quarantined().values()
            assert found.revision == KEY[1]
            assert found.reason == (Reason.LOAD_FAILED if after_s == SPARE_LOADS else Reason.CRASH_LOOP)


class TestInTheComparison:
    def test_the_first_has_the_trial_begin_anew(self, tmp_path: Path):
        with walked(tmp_path, BEGUN) as walking:
            kill_in_comparison(walking)
            walking.take(("until", ("a", Phase.TRIAL)))
            (retry,) = [each for each in walking.life.journal.history("a") if each.event == Event.RETRY]
            assert (retry.before, retry.after) == (Phase.SHADOW, Phase.TRIAL)
            walking.finish()
            assert serves(walking) == KEY[1]

    def test_the_second_is_the_revisions_own(self, tmp_path: Path):
        with walked(tmp_path, BEGUN) as walking:
            for _ in range(2):
                kill_in_comparison(walking)
                walking.life.pass_time(1.0)
            (found,) = walking.life.journal.quarantined().values()
            assert (found.revision, found.reason) == (KEY[1], Reason.CRASH_LOOP)

    def test_one_on_trial_before_counts(self, tmp_path: Path):
        with walked(tmp_path, BEGUN) as walking:
            kill_on_trial(walking, BEST_IS_TRIED)
            kill_in_comparison(walking)
            walking.life.pass_time(1.0)
            (found,) = walking.life.journal.quarantined().values()
            assert found.reason == Reason.CRASH_LOOP


def test_another_update_begins_without_any(tmp_path: Path):
    with walked(tmp_path, BEGUN) as walking:
        for _ in range(2):
            kill_in_comparison(walking)
            walking.life.pass_time(1.0)
        walking.life.order(lambda: walking.life.administration.release("a"))
        walking.take(("until", ("a", Phase.TRIAL)))
        kill_in_comparison(walking)
        walking.take(("until", ("a", Phase.TRIAL)))
        walking.finish()
        assert serves(walking) == KEY[1]
