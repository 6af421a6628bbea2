"""What a failure is held against, and until when a revision is put off that nothing is held against."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from support.courses import ONE, TWO
from support.walks import Step, Walk, walked

from edged.errors import Code, EdgedError
from edged.update import looking
from edged.update.blame import PutOff, judge
from edged.update.machine import REASONS, Event, Phase, State
from edged.update.reasons import QUARANTINES, Reason
from edged.update.said import Said, said

STICK = Path("/run/stick")
FETCHING = State(model="m", phase=Phase.FETCHING, serving=ONE, target=TWO)


def failed(reason: Reason) -> Said:
    return said(Event.FAILED, "", reason)


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.STAGED])
@pytest.mark.parametrize(
    "code",
    [Code.BUNDLE_INVALID, Code.REVISION_NOT_FOUND, Code.REPOSITORY_INVALID, Code.NOT_PERMITTED, Code.OVERLOADED],
)
def test_what_no_repository_can_give_ends_the_update_and_is_held_against_nobody(phase: Phase, code: Code):
    found = judge(phase, EdgedError(code, "models/m/2.json: is odd", "mend it")).happened
    assert (found.event, found.reason) == (Event.FAILED, Reason.DOWNLOAD_FAILED)
    assert found.text == f"{code}: models/m/2.json: is odd; mend it"
    assert found.reason in REASONS[phase] - QUARANTINES


def test_the_device_itself_is_waited_for():
    found = judge(Phase.FETCHING, OSError("no such device"))
    assert (found.happened.event, found.awaits) == (Event.DEFERRED, "time")
    assert judge(Phase.TRIAL, EdgedError(Code.MEMORY_SHORT, "none")).happened.event is Event.DEFERRED


class TestPutOff:
    @pytest.mark.parametrize("reason", sorted(set(REASONS[Phase.FETCHING]) - QUARANTINES))
    def test_is_what_is_not_quarantined(self, reason: Reason):
        put_off = PutOff()
        put_off.add(FETCHING, failed(reason))
        assert put_off.why(2)
        assert not put_off.why(3)
        assert not put_off.why(0)

    @pytest.mark.parametrize("found", [failed(Reason.LOAD_FAILED), said(Event.SUPERSEDED)])
    def test_is_nothing_else(self, found: Said):
        put_off = PutOff()
        put_off.add(FETCHING, found)
        assert not put_off.why(2)

    def test_is_over_with_the_next_look(self):
        put_off = PutOff()
        put_off.add(FETCHING, failed(Reason.SIGNATURE_INVALID))
        assert "with the next look" in put_off.why(2)
        put_off.looked()
        assert not put_off.why(2)


def phase(walking: Walk, model: str) -> Phase:
    return walking.life.agent.courses[model].state.phase


def test_a_revision_that_nobody_publishes_is_asked_for_with_each_look_and_no_more(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("pin", ("b", 77)), ("sleep", (30.0,))]
    with walked(tmp_path, steps) as walking:
        life = walking.life
        (row,) = [each for each in life.journal.history("b") if each.reason]
        assert (row.before, row.after, row.reason) == (Phase.FETCHING, Phase.IDLE, Reason.DOWNLOAD_FAILED)
        assert "revision_not_found: there is no b 77" in row.text
        assert not life.agent.busy
        assert not life.journal.quarantined()
        assert "is tried again with the next look" in life.agent.decisions["b"].why
        life.pass_time(life.shop.settings.poll_s * 3.5)
        assert len([each for each in life.journal.history("b") if each.reason]) in (4, 5)
        walking.take(("sleep", (timedelta(days=1).total_seconds(),)))
        walking.finish()


def lose_the_repository(walking: Walk, how: str) -> None:
    """There is none any more, or none that answers."""
    shop = walking.life.shop
    if how == "none":
        shop.settings = msgspec.structs.replace(shop.settings, repository="")
    else:
        walking.outside.fetch = "download_failed"


@pytest.mark.parametrize("repository", ["none", "silent"])
def test_what_is_here_is_tried_again_without_a_repository(tmp_path: Path, repository: str):
    steps: list[Step] = [("sleep", (2.0,)), ("plan", ("a", 2)), ("until", ("a", Phase.SOAKING))]
    with walked(tmp_path, steps) as walking:
        life = walking.life
        walking.outside.damaged.add(("a", 2))
        life.do(lambda: [each.end("killed by SIGKILL") for each in life.hands if each.key == ("a", 2)])
        life.pass_time(20.0)
        assert phase(walking, "a") is Phase.IDLE
        assert life.agent.decisions["a"].why.endswith("is tried again with the next look for updates")
        walking.outside.calm()
        lose_the_repository(walking, repository)
        life.pass_time(1.2 * life.shop.settings.poll_s)
        state = life.agent.courses["a"].state
        assert state.serving is not None
        assert state.serving.revision == 2


@pytest.mark.parametrize("repository", ["none", "silent"])
def test_what_is_not_here_waits_for_a_repository(tmp_path: Path, repository: str):
    with walked(tmp_path, [("sleep", (2.0,)), ("pin", ("b", 77)), ("sleep", (30.0,))]) as walking:
        life = walking.life
        lose_the_repository(walking, repository)
        rows = len(life.journal.history("b"))
        life.pass_time(86_400.0)
        assert len(life.journal.history("b")) == rows
        assert "with the next look" in life.agent.decisions["b"].why


def test_a_stick_brings_what_another_repository_is_slow_to_give(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("plan", ("a", 2)), ("sleep", (5.0,)), ("fault", ("fetch_s", 1e6))]
    with walked(tmp_path, [*steps, ("pin", ("b", 2)), ("sleep", (5.0,)), ("fault", ("fetch_s", 0.5))]) as walking:
        life = walking.life
        assert phase(walking, "b") is Phase.FETCHING
        walking.outside.plan["b"] = 2
        life.order(lambda: life.agent.look_at(STICK, begin=True))
        walking.take(("until", ("b", Phase.SOAKING)))
        assert life.agent.looking.stick == STICK
        resumed = [each for each in life.journal.history("b") if each.event == Event.RESUMED]
        assert [each.text for each in resumed] == ["it comes from another repository now"]
        walking.finish()


def test_who_only_asks_what_a_stick_would_bring_waits_for_what_is_under_way(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("fault", ("fetch_s", 1e6)), ("pin", ("b", 2)), ("sleep", (5.0,))]
    with walked(tmp_path, steps) as walking:
        life, refused = walking.life, []

        async def ask() -> None:
            with pytest.raises(EdgedError) as raised:
                await life.agent.look_at(STICK, begin=False)
            refused.append(raised.value.code)

        life.order(ask)
        life.pass_time(1.0)
        assert refused == [Code.OVERLOADED]


def test_a_look_that_takes_too_long_ends_and_a_stick_has_its_turn(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("fault", ("fetch_s", 1e6)), ("look", ()), ("sleep", (1.0,))]
    with walked(tmp_path, steps) as walking:
        life = walking.life
        walking.take(("fault", ("fetch_s", 0.5)))
        life.order(lambda: life.agent.look_at(STICK, begin=True))
        life.pass_time(looking._LONGEST_S - 10)
        assert life.agent.looking.stick is None
        life.pass_time(30)
        assert life.agent.looking.stick == STICK
        (told,) = [each for each in life.shop.events.after(0) if "no plan within" in each.message]
        assert told.code == Code.DOWNLOAD_FAILED
