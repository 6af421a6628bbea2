"""The watch over what has begun to serve: what it is held against, what it is excused, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import hands
from support.walks import Step, Walk, walked

from edged.types import Outcome
from edged.update.machine import Event, Phase, Record
from edged.update.reasons import Reason
from edged.update.records import Transition

BEGUN: list[Step] = [("plan", ("a", 2)), ("until", ("a", Phase.SOAKING))]


@pytest.fixture(autouse=True)
def single_requests(monkeypatch) -> None:
    monkeypatch.setattr(hands, "_CALLS", 1)


def ask(walking: Walk, revision: int, count: int, *, ok: bool = True, took_s: float = 0.01) -> None:
    """Requests that reach a revision, of which each has the same end."""
    code = "" if ok else "inference_failed"
    outcomes = walking.life.shop.outcomes
    walking.life.do(lambda: [outcomes.take(Outcome("a", revision, ok, code, took_s)) for _ in range(count)])


def end_of_soak(walking: Walk) -> Transition:
    return [each for each in walking.life.journal.history("a") if each.before == Phase.SOAKING != each.after][-1]


@pytest.fixture(params=["stays up", "restart", "cut"])
def soaking(request, tmp_path: Path) -> Iterator[Walk]:
    """A device whose revision 2 soaks, after a predecessor with a long record; its daemon may have begun anew since."""
    with walked(tmp_path, [("sleep", (2.0,))]) as walking:
        ask(walking, 1, 3000)
        for step in BEGUN:
            walking.take(step)
        if request.param != "stays up":
            walking.take((request.param, ()))
            walking.take(("sleep", (1.0,)))
        yield walking


class TestTheRecordOfThePredecessor:
    def test_says_how_often_a_revision_may_err_in_each_life_of_the_daemon(self, soaking: Walk):
        for at in range(150):  # of errors that its author allows, and its predecessor never made
            ask(soaking, 2, 1, ok=at % 7 > 0)
        soaking.take(("until", ("a", Phase.IDLE)))
        assert (end_of_soak(soaking).event, end_of_soak(soaking).reason) == (Event.FAILED, Reason.ERROR_RATE)

    def test_says_how_slow_it_may_be_in_each_life_of_the_daemon(self, soaking: Walk):
        for _ in range(25):
            ask(soaking, 2, 10, took_s=0.1)
            soaking.life.pass_time(1.0)
        soaking.take(("until", ("a", Phase.IDLE)))
        assert (end_of_soak(soaking).event, end_of_soak(soaking).reason) == (Event.FAILED, Reason.LATENCY_BUDGET)

    def test_is_over_with_the_soak(self, soaking: Walk):
        assert soaking.life.journal.states()["a"].held_against.requests == 3000
        soaking.take(("until", ("a", Phase.IDLE)))
        assert soaking.life.journal.states()["a"].held_against == Record()
