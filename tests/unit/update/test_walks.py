"""Whole devices, whatever happens to them in whatever order: see `support.walks` for what is to hold."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.walks import Step, walk, walked
from support.walksteps import draw

from edged.types import Limits
from edged.update.machine import Event, Phase
from edged.update.reasons import Reason

# What walks have met once, cut down to what it takes.
MET: dict[str, Sequence[Step]] = {
    "back to what served before a soak": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.SOAKING)),
        ("pin", ("a", 1)),
        ("sleep", (40.0,)),
    ],
    "a start with a slow disk, of a model that has nothing yet and others": [
        ("sleep", (2.0,)),
        ("fault", ("fetch", "hangs")),
        ("pin", ("c", 1)),
        ("sleep", (2.0,)),
        ("fault", ("job_s", 0.05)),
        ("cut", ()),
        ("sleep", (2.0,)),
    ],
    "a trial whose worker makes room for another while it waits": [
        ("sleep", (2.0,)),
        ("pin", ("c", 2)),
        ("fault", ("load_s", 5.0)),
        ("sleep", (3.0,)),
        ("press", (Limits(background_paused=True),)),
        ("fault", ("capacity", 1)),
        ("renew", ("a",)),
        ("sleep", (50.0,)),
    ],
    "two who unpin": [("sleep", (2.0,)), ("pin", ("a", 1)), ("sleep", (0.1,)), ("unpin", ("a",)), ("unpin", ("a",))],
    "an unloaded model whose soak ends": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("fault", ("release_s", 0.1)),
        ("until", ("a", Phase.SOAKING)),
        ("unload", ("a",)),
        ("turns", (2,)),
        ("pin", ("a", 3)),
        ("sleep", (2.0,)),
    ],
    "what is about to end, loaded": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("fault", ("release_s", 3.0)),
        ("until", ("a", Phase.COMMITTED)),
        ("load", ("a", 1)),
        ("sleep", (10.0,)),
    ],
    "a commit of what the next start cannot run": [
        ("sleep", (2.0,)),
        ("fault", ("release_s", 8.0)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.COMMITTED)),
        ("break", ("a", 2)),
        ("cut", ()),
        ("sleep", (2.0,)),
    ],
    "a soak that ends while nothing can be written": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.SOAKING)),
        ("fault", ("journal_fails", "rows")),
        ("plan", ("a", 1)),
        ("sleep", (5.0,)),
    ],
    "what failed while nothing could be written, wanted again": [
        ("sleep", (2.0,)),
        ("plan", ("a", 3)),
        ("until", ("a", Phase.SOAKING)),
        ("fault", ("journal_fails", "rows")),
        ("ask", ("a", False)),
        ("sleep", (10.0,)),
    ],
    "a model unloaded on the trial of another revision": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.TRIAL)),
        ("unload", ("a",)),
        ("sleep", (10.0,)),
    ],
    "a revision unloaded while it is compared": [
        ("sleep", (2.0,)),
        ("plan", ("b", 2)),
        ("until", ("b", Phase.SHADOW)),
        ("load", ("b", 1)),
        ("sleep", (1.0,)),
        ("ask", ("b", True)),
        ("sleep", (1.0,)),
    ],
    "an order to load what an update has begun anew": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.SOAKING)),
        ("fault", ("release_s", 8.0)),
        ("load", ("a", 0)),
        ("load", ("a", 0)),
        ("plan", ("a", 1)),
        ("turns", (40,)),
        ("sleep", (0.6,)),
        ("plan", ("a", 2)),
        ("turns", (40,)),
    ],
    "a soak while another revision is meant": [
        ("sleep", (2.0,)),
        ("plan", ("b", 3)),
        ("until", ("b", Phase.COMMITTED)),
        ("sleep", (2.0,)),
        ("break", ("b", 3)),
        ("cut", ()),
        ("sleep", (2.0,)),
        ("plan", ("b", 2)),
        ("until", ("b", Phase.SOAKING)),
        ("break", ("b", 3)),
        ("cut", ()),
        ("sleep", (2.0,)),
    ],
    "a floor that is raised above what is under way": [
        ("sleep", (2.0,)),
        ("fault", ("fetch_s", 5.0)),
        ("pin", ("b", 2)),
        ("floor", ("b", 3)),
        ("look", ()),
        ("sleep", (5.1,)),
        ("sleep", (40.0,)),
    ],
    "a device that is switched off often": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.SOAKING)),
        *[("restart", ()), ("sleep", (2.0,))] * 8,
    ],
    "a trial on a slow device that is switched off often": [
        ("sleep", (2.0,)),
        ("fault", ("load_s", 5.0)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.TRIAL)),
        *[("restart", ()), ("sleep", (7.0,))] * 5,
    ],
    "what soaks above a raised floor, given up": [
        ("floor", ("a", 3)),
        ("sleep", (3.0,)),
        ("plan", ("a", 3, True)),
        ("restart", ()),
        ("until", ("a", Phase.SOAKING)),
        ("back", ("a", 8)),
        ("sleep", (1.0,)),
        ("back", ("a", 3)),
    ],
    "a soak that rests between power cuts that are far from each other": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.SOAKING)),
        *[("press", (Limits(background_paused=True),)), ("sleep", (700.0,)), ("cut", ()), ("sleep", (0.5,))] * 7,
    ],
}


@pytest.mark.parametrize("steps", MET.values(), ids=MET.keys())
def test_a_walk_that_went_wrong_once_goes_well(tmp_path: Path, steps: Sequence[Step]):
    walk(tmp_path, steps)


def test_a_soak_goes_on_where_it_was_before_a_stop(tmp_path: Path):
    off = [("sleep", (10.0,)), ("restart", ())]
    steps: list[Step] = [("sleep", (2.0,)), ("plan", ("a", 2)), ("until", ("a", Phase.SOAKING)), *off * 4]
    with walked(tmp_path, steps) as walking:
        walking.take(("until", ("a", Phase.IDLE)))
        rows = [each for each in walking.life.journal.history("a") if each.before == Phase.SOAKING]
        assert [each.event for each in rows][-1] == Event.UNPROVEN
        assert sum(each.event == Event.STARTED for each in rows) == 3


def test_what_takes_the_device_down_as_it_is_loaded_is_given_up(tmp_path: Path):
    cuts = [("cut", ()), ("sleep", (1.0,))]
    begun: list[Step] = [("sleep", (2.0,)), ("plan", ("a", 2)), ("until", ("a", Phase.SOAKING))]
    with walked(tmp_path, [*begun, ("fault", ("load_s", 5.0)), *cuts * 5]) as walking:
        assert walking.life.journal.states()["a"].attempts == 5
        walking.take(("cut", ()))
        walking.take(("sleep", (6.0,)))
        assert [each.key for each in walking.life.hands if each.key[0] == "a"] == [("a", 1)]
        walking.take(("until", ("a", Phase.IDLE)))
        (found,) = walking.life.journal.quarantined().values()
        assert (found.model, found.revision, found.reason) == ("a", 2, Reason.CRASH_LOOP)
        walking.blameless = False
        walking.finish()


def test_what_takes_the_device_down_as_it_is_compared_is_given_up(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("plan", ("a", 3)), *[("until", ("a", Phase.SHADOW)), ("cut", ())] * 4]
    with walked(tmp_path, steps) as walking:
        walking.take(("sleep", (5.0,)))
        (found,) = walking.life.journal.quarantined().values()
        assert (found.revision, found.reason) == (3, Reason.CRASH_LOOP)


def test_what_is_fetched_wrong_is_fetched_once_more_and_then_rejected(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("fault", ("fetch", "damages")), ("plan", ("a", 2)), ("sleep", (14.0,))]
    with walked(tmp_path, steps) as walking:
        events = [each.event for each in walking.life.journal.history("a")]
        assert events[: events.index(Event.FAILED)] == [Event.WANTED, Event.FETCHED, Event.RETRY, Event.FETCHED]
        walking.finish()


def test_what_a_start_had_to_fall_back_on_is_in_the_journal(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("plan", ("a", 2)), ("until", ("a", Phase.COMMITTED)), ("sleep", (2.0,))]
    with walked(tmp_path, [*steps, ("break", ("a", 2)), ("restart", ()), ("sleep", (2.0,))]) as walking:
        state = walking.life.journal.states()["a"]
        assert [each and each.revision for each in (state.serving, state.intended)] == [1, 2]
        (row,) = [each for each in walking.life.journal.history("a") if each.event == Event.STARTED]
        assert "instead of 2" in row.text
        walking.finish()


def test_what_is_ordered_while_a_start_chooses_is_heard_by_the_course_that_it_begins(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("plan", ("a", 2)), ("until", ("a", Phase.COMMITTED)), ("sleep", (2.0,))]
    with walked(tmp_path, [*steps, ("fault", ("load_s", 5.0)), ("restart", ()), ("sleep", (1.0,))]) as walking:
        life = walking.life
        assert "a" in life.residency.routes
        assert "a" not in life.agent.courses
        life.order(lambda: life.administration.pin("a", 1, "pin"))
        life.pass_time(60.0)
        assert [each.get_name() for each in asyncio.all_tasks(life.loop)].count("course of a") == 1
        state = life.journal.states()["a"]
        assert [each and each.revision for each in (state.serving, state.previous)] == [1, 2]
        walking.finish()


def test_who_went_back_long_ago_and_has_let_the_plan_decide_since_goes_back_again(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("plan", ("a", 2)), ("sleep", (100.0,))]
    with walked(tmp_path, steps) as walking:
        life = walking.life

        def go_back() -> int:
            life.order(lambda: life.administration.roll_back("a", 0))
            life.pass_time(100.0)
            serving = life.journal.states()["a"].serving
            return serving.revision if serving else 0

        assert go_back() == 1
        assert go_back() == 1, "said twice it is meant once"
        for step in (("unpin", ("a",)), ("sleep", (100.0,)), ("plan", ("a", 1)), ("sleep", (100.0,))):
            walking.take(step)
        assert go_back() == 2
        walking.finish()


def test_what_was_quarantined_late_is_not_wanted_by_who_looked_just_before_that(tmp_path: Path):
    with walked(tmp_path, MET["what failed while nothing could be written, wanted again"]) as walking:
        walking.take(("fault", ("journal_fails", "")))
        walking.take(("let_go", ()))  # which reads what is quarantined
        walking.take(("press", (Limits(),)))  # upon which the course writes what it owes
        walking.take(("sleep", (60.0,)))
        assert walking.life.journal.history("a")[-1].event == Event.FAILED
        (found,) = walking.life.journal.quarantined().values()
        assert found.revision == 3


@pytest.mark.parametrize("count", [20, pytest.param(5000, marks=pytest.mark.slow)])
def test_whatever_happens_a_device_serves_what_it_may_and_everything_comes_to_an_end(tmp_path: Path, count: int):
    first = random.SystemRandom().randrange(2**32)
    for seed in range(first, first + count):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            walk(folder, draw(chance, chance.randint(15, 60)), seed)
        except Exception as error:
            error.add_note(f"the seed was {seed}")
            raise
        shutil.rmtree(folder)
