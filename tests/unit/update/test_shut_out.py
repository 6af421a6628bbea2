"""Revisions of which only one finds room, or their device: neither keeps the other out for ever, and one serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import hands
from support.walks import Step, Walk, walked

from edged.models.states import State
from edged.update import course
from edged.update.machine import Event, Phase
from edged.update.reasons import Reason

SOAKS: list[Step] = [("sleep", (5.0,)), ("plan", ("a", 2)), ("until", ("a", Phase.SOAKING)), ("sleep", (5.0,))]
UNLOADED: list[Step] = [("sleep", (5.0,)), ("unload", ("b",)), ("unload", ("a",)), ("sleep", (3.0,))]
SHORT: dict[str, Step] = {"a device": ("fault", ("exclusive", True)), "memory": ("fault", ("capacity", 1))}


@pytest.fixture(autouse=True)
def single_requests(monkeypatch) -> None:
    monkeypatch.setattr(hands, "_CALLS", 1)


def serves(walking: Walk) -> int:
    """The revision of `a` that answers who asks; 0: none."""
    residency = walking.life.residency
    route = residency.routes["a"]
    up = [each for each in (route.serving, route.fallback) if each and residency.get("a", each).ready]
    return up[0] if up else 0


def phase(walking: Walk) -> Phase:
    return walking.life.agent.courses["a"].state.phase


@pytest.mark.parametrize("ends", ["restart", "cut"])
def test_a_start_warms_nothing_that_has_the_device_of_what_soaks(tmp_path: Path, ends: str):
    """As where what served had failed when the route flipped, and is loaded anew with the start."""
    with walked(tmp_path, SOAKS) as walking:
        assert not walking.life.agent.courses["a"].state.swaps
        for step in (SHORT["a device"], (ends, ()), ("sleep", (2.0,))):
            walking.take(step)
        assert [each.key for each in walking.life.hands if each.key[0] == "a"] == [("a", 2)]
        assert "one process at a time" in walking.life.journal.states()["a"].swaps
        walking.take((ends, ()))
        walking.take(("sleep", (60.0,)))
        assert walking.life.journal.history("a")[-1].event == Event.SETTLED
        assert serves(walking) == 2
        walking.finish()


def test_what_soaks_gone_back_on_after_such_a_start_has_what_served_load_again(tmp_path: Path):
    with walked(tmp_path, SOAKS) as walking:
        for step in (SHORT["a device"], ("cut", ()), ("sleep", (2.0,)), ("back", ("a", 0)), ("sleep", (5.0,))):
            walking.take(step)
        assert (phase(walking), serves(walking)) == (Phase.IDLE, 1)
        walking.finish()


@pytest.mark.parametrize("ends", ["restart", "cut"])
def test_a_start_whose_room_is_taken_by_what_served_ends_its_soak_and_has_the_two_change_places(
    tmp_path: Path, ends: str
):
    """Nobody asks for it; something else has taken memory since the route flipped, and `b` loads at the same time."""
    with walked(tmp_path, SOAKS) as walking:
        for step in (SHORT["memory"], (ends, ()), ("sleep", (10.0,))):
            walking.take(step)
        assert (phase(walking), serves(walking)) == (Phase.SOAKING, 1)
        for _ in range(12):
            walking.take(("sleep", (10.0,)))
            assert serves(walking)
        went = next(each for each in walking.life.journal.history("a") if each.reason)
        assert (went.before, went.reason) == (Phase.SOAKING, Reason.INCOMPATIBLE_HARDWARE)
        assert "no worker can be started for it here: 0 left for a" in went.text
        assert not walking.life.journal.quarantined()
        for step in (("look", ()), ("until", ("a", Phase.SOAKING)), ("sleep", (60.0,))):
            walking.take(step)
        assert (phase(walking), serves(walking)) == (Phase.IDLE, 2)
        assert Event.SWAPPED in [each.event for each in walking.life.journal.history("a")]
        walking.finish()


@pytest.mark.parametrize("short", SHORT.values(), ids=SHORT.keys())
class TestAModelThatSomebodyUnloaded:
    """Its update asks for what it had, which is whoever's that loads it again."""

    def test_is_loaded_again_while_the_update_waits_for_the_gate(self, tmp_path: Path, short: Step):
        steps: list[Step] = [*UNLOADED, short, ("hold", ("a",)), ("plan", ("a", 2)), ("sleep", (20.0,))]
        with walked(tmp_path, steps) as walking:
            assert "somebody holds it" in walking.life.agent.courses["a"].state.deferred
            assert not [each for each in walking.life.hands if each.key[0] == "a"]
            walking.take(("load", ("a", 0)))
            walking.take(("sleep", (10.0,)))
            assert serves(walking) == 1
            walking.take(("let_go", ()))
            walking.take(("sleep", (120.0,)))
            assert (phase(walking), serves(walking)) == (Phase.IDLE, 2)
            walking.finish()

    def test_is_updated_all_the_same_and_a_start_goes_on_with_the_soak(self, tmp_path: Path, short: Step):
        steps: list[Step] = [*UNLOADED, short, ("plan", ("a", 2)), ("until", ("a", Phase.SOAKING)), ("sleep", (5.0,))]
        with walked(tmp_path, steps) as walking:
            assert walking.life.agent.courses["a"].state.swaps
            walking.take(("cut", ()))
            walking.take(("sleep", (120.0,)))
            assert (phase(walking), serves(walking)) == (Phase.IDLE, 2)
            assert not [each for each in walking.life.journal.history("a") if each.reason]
            walking.finish()

    def test_serves_again_where_the_update_is_gone_back_on(self, tmp_path: Path, short: Step):
        steps: list[Step] = [*UNLOADED, short, ("plan", ("a", 6)), ("until", ("a", Phase.SOAKING)), ("sleep", (1.0,))]
        with walked(tmp_path, steps) as walking:
            for _ in range(400):
                walking.take(("ask", ("a", True)))
                walking.take(("sleep", (0.01,)))
                route = walking.life.residency.routes["a"]
                found = walking.life.residency.get("a", route.serving)
                assert found.ready or found.expected, "nobody who asks is refused"
            assert serves(walking) == 1
            walking.finish()


@pytest.mark.parametrize("short", SHORT.values(), ids=SHORT.keys())
def test_what_has_failed_is_loaded_again_while_the_update_waits_for_the_gate(tmp_path: Path, short: Step):
    steps: list[Step] = [("sleep", (5.0,)), ("unload", ("b",)), ("break", ("a", 1)), ("restart", ()), ("sleep", (2.0,))]
    with walked(tmp_path, [*steps, ("unload", ("b",)), ("sleep", (3.0,)), short, ("hold", ("a",))]) as walking:
        assert walking.life.residency.get("a", 1).state is State.FAILED
        for step in (
            ("plan", ("a", 2)),
            ("sleep", (20.0,)),
            ("break", ("a", 1)),
            ("load", ("a", 0)),
            ("sleep", (5.0,)),
        ):
            walking.take(step)
        assert serves(walking) == 1
        walking.finish()


def test_a_trial_that_fails_leaves_an_unloaded_model_unloaded(tmp_path: Path):
    steps: list[Step] = [*UNLOADED, SHORT["a device"], ("plan", ("a", 4)), ("sleep", (course._PAUSE_S * 2,))]
    with walked(tmp_path, steps) as walking:
        assert walking.life.journal.history("a")[-1].reason == Reason.GOLDEN_MISMATCH
        assert walking.life.residency.get("a", 1).state is State.UNAVAILABLE
        assert not [each for each in walking.life.hands if each.key[0] == "a"]
        walking.finish()
