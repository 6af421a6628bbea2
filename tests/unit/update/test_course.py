"""A course under pressure, held and between events: what goes on, what rests, and what is not lost."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.courses import ONE, TWO, Running

from edged.errors import Code, EdgedError
from edged.update import course, policy
from edged.update.journal import Journal
from edged.update.machine import Event, Phase, Soaked, State
from edged.update.said import Awaits, deferred, said

FULL, HELD = "the disk is full", "somebody holds it"


def state(phase: Phase, **fields: object) -> State:
    return State(model="m", phase=phase, serving=ONE, target=TWO, cause="plan", **fields)  # type: ignore[arg-type]


class TestAPause:
    async def test_of_fetching_has_the_next_phase_rest_too_and_the_trial_not(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.FETCHING)) as running:
            running.post(Event.STARTED)
            await running.until(lambda: running.script.did == ["fetch"])
            running.terms.pauses = {Phase.FETCHING: FULL, Phase.STAGED: FULL}
            running.script.say(Event.FETCHED)
            await running.until(lambda: running.state.deferred)
            assert (running.state.phase, running.state.deferred) == (Phase.STAGED, FULL)
            assert running.script.did == ["fetch"]
            running.terms.pauses = {}
            running.course.look_again()
            await running.until(lambda: running.script.did == ["fetch", "take_in"])
            running.script.say(Event.TAKEN_IN)
            running.terms.pauses = {Phase.FETCHING: FULL, Phase.STAGED: FULL}
            await running.until(lambda: running.state.phase is Phase.TRIAL)
            running.course.look_again()
            await running.until(lambda: running.script.did == ["fetch", "take_in", "try"])
            await running.course.heard()
            assert not running.state.deferred

    async def test_of_what_is_under_way_ends_it_until_it_is_over(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.FETCHING)) as running:
            running.post(Event.STARTED)
            await running.until(lambda: running.script.did == ["fetch"])
            running.terms.pauses = {Phase.FETCHING: FULL}
            running.course.look_again()
            await running.until(lambda: running.state.deferred == FULL)
            running.course.look_again()
            await running.course.heard()
            assert running.script.did == ["fetch"]
            running.terms.pauses = {}
            running.course.look_again()
            await running.until(lambda: running.script.did == ["fetch", "fetch"])
            assert running.steps() == ["started", "deferred", "resumed"]

    async def test_is_not_ended_by_the_time_at_which_something_else_was_to_be_tried_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr(course, "_PAUSE_S", 0.0)
        async with Running(tmp_path, state(Phase.TRIAL)) as running:
            running.post(Event.STARTED)
            await running.until(lambda: running.script.did == ["try"])
            running.terms.pauses = {Phase.TRIAL: FULL}
            running.script.say(deferred("no memory", Awaits.TIME))
            await running.until(lambda: running.state.deferred == FULL)
            await asyncio.sleep(0.01)
            await running.course.heard()
            assert running.state.deferred == FULL
            assert running.script.did == ["try"]

    async def test_leaves_a_verdict_that_was_reached_before_it(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            running.post(Event.STARTED)
            await running.until(lambda: running.script.did == ["soak"])
            running.script.say(Event.FAILED)
            running.course._said.put_nowait = _later(running)  # type: ignore[method-assign]
            await running.until(lambda: running.state.phase is Phase.IDLE)
            assert "flip_back" in running.script.did
            assert "deferred" not in running.steps()

    async def test_outlives_a_crash_that_is_heard_late(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            running.terms.pauses = {Phase.SOAKING: FULL}
            running.post(Event.STARTED)
            await running.until(lambda: running.state.deferred)
            running.post(Event.CRASHED)
            await running.until(lambda: running.state.crashes)
            running.terms.pauses = {}
            running.course.look_again()
            await running.until(lambda: running.script.did == ["soak"])


def _later(running: Running):
    """Has a pause begin between the end of a stage and the hearing of what it said."""
    put = type(running.course._said).put_nowait

    def put_after(item: object) -> None:
        running.terms.pauses = {Phase.SOAKING: FULL}
        put(running.course._said, (None, 0))
        put(running.course._said, item)

    return put_after


@pytest.fixture
def delays(monkeypatch):
    """For how long each stage that is to be tried again would have waited; it does not. Called in the loop."""

    def record(running: Running) -> list[float]:
        loop, found = asyncio.get_running_loop(), []
        call_later = loop.call_later

        def call(delay_s: float, callback, *args):
            if callback != running.course._said.put_nowait:
                return call_later(delay_s, callback, *args)
            found.append(delay_s)
            return call_later(0, callback, *args)

        monkeypatch.setattr(loop, "call_later", call)
        return found

    return record


class TestWhatIsTriedAgain:
    async def test_is_tried_later_each_time_until_something_happens(self, tmp_path: Path, delays):
        async with Running(tmp_path, state(Phase.FETCHING)) as running:
            found = delays(running)
            running.post(Event.STARTED)
            for _ in range(10):
                running.script.say(OSError("not now"))
            await running.until(lambda: len(found) == 10)
            assert found == [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
            running.script.say(Event.FETCHED)
            running.script.say(OSError("not now"))
            await running.until(lambda: len(found) == 11)
            assert found[-1] == 15

    async def test_is_tried_later_each_time_also_where_revisions_are_to_change_places(self, tmp_path: Path, delays):
        """The serving one steps aside for each, and requests wait."""
        async with Running(tmp_path, state(Phase.TRIAL)) as running:
            found = delays(running)
            running.post(Event.STARTED)
            for _ in range(4):
                running.script.say(Event.SWAPS, "one has room")
                running.script.say(OSError("no device"))
            await running.until(lambda: len(found) == 4)
            assert found == [15, 30, 60, 120]

    async def test_is_the_settling_of_what_was_committed_as_well(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(course, "_PAUSE_S", 0.0)
        async with Running(tmp_path, State(model="m", phase=Phase.COMMITTED, serving=TWO, previous=ONE)) as running:
            running.post(Event.STARTED)
            running.script.say(EdgedError(Code.JOURNAL_UNWRITABLE, FULL))
            running.script.say(Event.SETTLED)
            await running.until(lambda: running.state.phase is Phase.IDLE)
            assert running.script.did == ["settle", "settle"]
            assert running.steps() == ["started", "deferred", "resumed", "settled"]

    async def test_is_not_hurried_by_a_look(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.TRIAL)) as running:
            running.post(Event.STARTED)
            running.script.say(deferred("no memory", Awaits.TIME))
            await running.until(lambda: running.state.deferred)
            running.course.look_again()
            await running.course.heard()
            assert running.state.deferred == "no memory"
            assert running.script.did == ["try"]

    async def test_is_tried_at_once_for_somebody_who_asks(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.TRIAL)) as running:
            running.post(Event.STARTED)
            running.script.say(deferred("no memory", Awaits.TIME))
            await running.until(lambda: running.state.deferred)
            running.course.hurry()
            await running.until(lambda: running.script.did == ["try", "try"])
            running.course.hurry()  # what is under way is not begun anew
            await running.course.heard()
            assert running.script.did == ["try", "try"]


class TestAJournalThatTakesNothing:
    @pytest.fixture
    def full(self, monkeypatch) -> list[bool]:
        """Whether it is."""
        found, record = [True], Journal.record

        def refuse(*asked: object, **named: object) -> None:
            if found[0]:
                raise EdgedError(Code.JOURNAL_UNWRITABLE, FULL)
            record(*asked, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Journal, "record", refuse)
        monkeypatch.setattr(course, "_PAUSE_S", 0.001)
        return found

    async def test_is_why_an_update_waits_which_is_told_once(self, tmp_path: Path, full: list[bool]):
        async with Running(tmp_path, state(Phase.FETCHING)) as running:
            running.post(Event.STARTED)
            await running.until(lambda: running.state.deferred == FULL)
            for _ in range(3):
                running.post(Event.DEFERRED, "something else")
                running.post(Event.RESUMED)
            await running.course.heard()
            told = [each for each in running.shop.events.after(0) if each.code == Code.JOURNAL_UNWRITABLE]
            assert len(told) == 1
            full[0] = False
            running.post(Event.DEFERRED, "something else")
            await running.until(lambda: running.state.deferred == "something else")
            assert running.steps() == ["deferred"]

    async def test_does_not_end_a_soak_in_which_a_worker_crashes(self, tmp_path: Path, full: list[bool]):
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            full[0] = False
            running.post(Event.STARTED)
            await running.until(lambda: running.script.did == ["soak"])
            full[0] = True
            running.post(Event.CRASHED)
            await running.until(lambda: running.state.crashes)
            full[0] = False
            running.script.say(Event.PASSED)
            await running.until(lambda: running.state.phase is Phase.COMMITTED)
            assert running.steps() == ["started", "crashed", "passed"]
            assert running.script.did == ["soak", "settle"]

    async def test_has_each_crash_kept_once_it_can_be(self, tmp_path: Path, full: list[bool]):
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            for count in (1, 2):
                running.post(Event.CRASHED)
                await running.until(lambda count=count: running.state.crashes == count)
            full[0] = False
            running.course.look_again()
            await running.course.heard()
            assert running.steps() == ["crashed", "crashed"]
            assert running.shop.ledger.journal.states()["m"] == running.state

    async def test_has_what_happened_kept_at_the_end_too(self, tmp_path: Path, full: list[bool]):
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            running.post(Event.CRASHED)
            await running.until(lambda: running.state.crashes)
            full[0] = False
            await running.stop()
            assert running.steps() == ["crashed", "stopped"]

    async def test_has_a_soak_go_on_that_a_start_found(self, tmp_path: Path, full: list[bool]):
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            running.post(Event.STARTED)
            await running.until(lambda: running.script.did == ["soak"])
            full[0] = False
            running.script.say(Event.FAILED)
            await running.until(lambda: running.state.phase is Phase.IDLE)
            assert running.steps() == ["started", "failed"]

    async def test_does_not_have_a_verdict_forgotten_for_somebody_who_asks(
        self, tmp_path: Path, full: list[bool], monkeypatch
    ):
        monkeypatch.setattr(course, "_PAUSE_S", 3600.0)
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            await self._wait_with_a_verdict(running)
            full[0] = False
            running.course.hurry()
            await running.until(lambda: running.state.phase is Phase.COMMITTED)
            assert running.steps() == ["passed"]

    async def test_does_not_have_a_verdict_forgotten_under_pressure(
        self, tmp_path: Path, full: list[bool], monkeypatch
    ):
        monkeypatch.setattr(course, "_PAUSE_S", 3600.0)
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            await self._wait_with_a_verdict(running)
            for pauses in ({Phase.SOAKING: "it is hot"}, {}):
                running.terms.pauses = pauses
                running.course.look_again()
                await running.course.heard()
            full[0] = False
            running.course.hurry()
            await running.until(lambda: running.state.phase is Phase.COMMITTED)
            assert running.script.did == ["soak", "settle"]

    async def _wait_with_a_verdict(self, running: Running) -> None:
        running.post(Event.RESUMED)
        running.script.say(Event.PASSED)
        await running.until(lambda: running.state.deferred == FULL)


def record_late(
    monkeypatch: pytest.MonkeyPatch, which: Callable[[State], bool]
) -> tuple[threading.Event, threading.Event]:
    """Has the journal say by the first that it has a step of `which` to keep, and keep it once the second is set."""
    record, begun, keeps = Journal.record, threading.Event(), threading.Event()

    def late(journal: Journal, new: State, *rest: object) -> None:
        if which(new):
            begun.set()
            assert keeps.wait(30)
        record(journal, new, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "record", late)
    return begun, keeps


class TestALifeOfTheDaemon:
    async def test_that_ends_as_it_should_is_no_sign_of_anything(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE, attempts=5)) as running:
            running.script.soaked = Soaked(40.0, 7)
            running.post(Event.RESUMED)
            await running.until(lambda: running.script.did == ["soak"])
            await running.stop()
            kept = running.shop.ledger.journal.states()["m"]
            assert (kept.attempts, kept.stopped, kept.soaked) == (5, True, Soaked(40.0, 7))
        async with Running(tmp_path / "next", kept) as running:
            running.post(Event.STARTED)
            await running.until(lambda: running.script.did == ["soak"])
            assert (running.state.attempts, running.state.soaked) == (5, Soaked(40.0, 7))

    async def test_that_ends_while_a_step_is_kept_leaves_that_step(self, tmp_path: Path, monkeypatch):
        """Its outcome is not waited for: to keep what was before it would take back a commit."""
        begun, keeps = record_late(monkeypatch, lambda new: new.phase is Phase.COMMITTED)
        async with Running(tmp_path, state(Phase.SOAKING, previous=ONE)) as running:
            running.post(Event.RESUMED)
            running.script.say(Event.PASSED)
            await running.until(begun.is_set)
            ends = asyncio.create_task(running.stop())
            await asyncio.sleep(0)
            keeps.set()
            await ends
            await running.until(lambda: running.steps()[-1:] == ["passed"])
            assert running.shop.ledger.journal.states()["m"].phase is Phase.COMMITTED

    async def test_that_ends_while_the_step_before_its_trial_is_kept_is_no_sign_against_that(
        self, tmp_path: Path, monkeypatch
    ):
        begun, keeps = record_late(monkeypatch, lambda new: new.phase is Phase.TRIAL and not new.stopped)
        async with Running(tmp_path, state(Phase.STAGED)) as running:
            running.post(Event.RESUMED)
            running.script.say(Event.TAKEN_IN)
            await running.until(begun.is_set)
            ends = asyncio.create_task(running.stop())
            await asyncio.sleep(0)
            keeps.set()
            await ends
            assert running.steps()[-1] == "stopped"
            left = running.shop.ledger.journal.states()["m"]
        assert (left.phase, left.stopped) == (Phase.TRIAL, True)

    async def test_in_which_a_phase_lasts_takes_back_what_counted_against_it(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(policy, "SURVIVED_S", 0.001)
        async with Running(tmp_path, state(Phase.TRIAL, attempts=2)) as running:
            running.course.text = "it loads"
            await running.until(lambda: not running.state.attempts)
            await running.course.heard()
            assert running.steps() == ["lasted"]
            assert running.course.text == "it loads"

    @pytest.mark.parametrize("paused_s", [0.0, 5.0])
    async def test_leaves_each_hour_of_a_soak(self, tmp_path: Path, monkeypatch, paused_s: float):
        """`paused_s`: so long it rests in each."""
        loop = asyncio.get_running_loop()
        call_later, timers = loop.call_later, []

        def record(delay_s: float, callback, *args):
            if callback == running.course._lasted:
                timers.append(delay_s)
                delay_s = 1e6
            return call_later(delay_s, callback, *args)

        running = Running(tmp_path, state(Phase.SOAKING, previous=ONE))
        monkeypatch.setattr(loop, "call_later", record)
        async with running:
            running.script.soaked = Soaked()
            running.post(Event.RESUMED)
            await running.until(lambda: running.script.did == ["soak"])
            up_s, kept = 0.0, []
            while up_s < 10 * 3600:
                up_s += timers[-1]
                running.script.soaked = Soaked(up_s - paused_s * (1 + up_s // 3600))
                running.course._lasted()
                await running.course.heard()
                if running.state.outlived.lasted_s not in kept[-1:]:
                    kept.append(running.state.outlived.lasted_s)
            hours = [later - before for before, later in itertools.pairwise(kept)]
            assert len(hours) >= 9
            assert all(3600 <= each < 3600 + 120 for each in hours), hours

    async def test_that_falls_back_on_another_revision_says_so_once(self, tmp_path: Path):
        found = State(model="m", serving=TWO, previous=ONE)
        async with Running(tmp_path, found) as running:
            running.course.state = State(model="m", serving=ONE, previous=TWO, intended=TWO)
            for _ in range(2):
                running.post(Event.STARTED, "revision 2 does not load")
                await running.course.heard()
            assert [each.text for each in running.shop.ledger.journal.history()] == ["revision 2 does not load"]
            assert running.shop.ledger.journal.states()["m"] == running.state

    async def test_that_finds_the_bundles_of_its_image_has_nothing_to_say(self, tmp_path: Path):
        """What an image brings is chosen anew with each, by what it brings then."""
        async with Running(tmp_path, State(model="m")) as running:
            running.course.state = State(model="m", serving=ONE)
            running.post(Event.STARTED)
            await running.course.heard()
            assert running.steps() == []


class TestATrialThatEnds:
    async def test_has_ended_before_its_revision_is_tried_anew(self, tmp_path: Path, monkeypatch):
        async with Running(tmp_path, state(Phase.SHADOW)) as running:
            over = asyncio.Event()

            async def end_trial(*_: object) -> None:
                running.script.did.append("ending")
                await over.wait()
                running.script.did.append("ended")

            monkeypatch.setattr(running.script, "end_trial", end_trial)
            running.post(Event.RESUMED)
            running.script.say(Event.RETRY, "its worker is gone")
            await running.until(lambda: "ending" in running.script.did)
            await running.course.heard()
            over.set()
            await running.until(lambda: "try" in running.script.did)
            assert running.script.did == ["shadow", "ending", "ended", "try"]


async def test_nothing_is_discarded_under_what_is_no_models_name_and_the_course_goes_on(tmp_path: Path):
    wrong = State(model="../m", phase=Phase.FETCHING, serving=ONE, target=TWO)
    async with Running(tmp_path, wrong) as running:
        running.post(Event.SUPERSEDED)
        running.post(Event.WANTED, target=TWO)
        await running.until(lambda: running.script.did == ["fetch"])


class TestAGate:
    async def test_that_was_shut_after_the_stage_asked_keeps_the_route(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.SHADOW)) as running:
            running.post(Event.RESUMED)
            await running.until(lambda: running.script.did == ["shadow"])
            running.terms.shut = HELD
            running.script.say(Event.PASSED)
            await running.until(lambda: running.state.deferred)
            assert (running.state.phase, running.state.deferred, running.state.serving) == (Phase.SHADOW, HELD, ONE)
            running.course.look_again()
            await running.course.heard()
            assert running.state.deferred == HELD
            running.terms.shut = ""
            running.course.look_again()
            running.script.say(Event.PASSED)
            await running.until(lambda: running.state.phase is Phase.SOAKING)
            assert running.script.did[:3] == ["shadow", "shadow", "flip_over"]


class TestTwoThatChangedPlaces:
    @pytest.mark.parametrize("event", [Event.DEFERRED, Event.SUPERSEDED])
    async def test_change_back_where_that_they_did_is_not_heard(self, tmp_path: Path, event: Event):
        async with Running(tmp_path, state(Phase.TRIAL)) as running:
            running.post(Event.STARTED)
            running.script.say(Event.SWAPS, "one has room")
            await running.until(lambda: running.script.did == ["try", "swap"])
            running.script.say(Event.SWAPPED)
            running.post(event, "something else")  # heard before what the stage says
            await running.until(lambda: "swap_back" in running.script.did)
            await running.course.heard()
            assert running.state.serving == ONE
            assert running.state.phase in (Phase.TRIAL, Phase.IDLE)
            assert "flip_over" not in running.script.did

    async def test_are_routed_to_where_it_is(self, tmp_path: Path):
        async with Running(tmp_path, state(Phase.TRIAL)) as running:
            running.post(Event.STARTED)
            running.script.say(Event.SWAPS, "one has room")
            running.script.say(Event.SWAPPED)
            await running.until(lambda: running.state.phase is Phase.SOAKING)
            assert running.script.did[:3] == ["try", "swap", "flip_over"]
            assert running.state.swaps


async def test_what_a_given_up_stage_says_is_not_heard(tmp_path: Path):
    async with Running(tmp_path, state(Phase.FETCHING)) as running:
        running.post(Event.STARTED)
        await running.until(lambda: running.script.did)
        turn = running.course._turn
        running.post(Event.DEFERRED, "not now")
        running.course._said.put_nowait((said(Event.FETCHED), turn))
        await running.course.heard()
        assert running.state.phase is Phase.FETCHING
