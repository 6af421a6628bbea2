"""The agent: what it pauses, whom it tells, and where it looks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.courses import NOW, ONE, TWO, make_shop
from support.polling import until_async

from edged.config.update import Update
from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.types import Limits
from edged.update import agent as agents
from edged.update import inventory, opening, plan, start
from edged.update.administration import Administration
from edged.update.agent import Agent
from edged.update.collecting import collect
from edged.update.journal import DATABASE, Journal
from edged.update.machine import WORK, Event, Happened, Phase, Ref, State, step
from edged.update.reasons import Reason
from edged.update.records import Transition
from edged.update.share import Device

PLAN = plan.Plan(fleet="f", models={"m": {"c": plan.ClassPlan(revision=2)}})


class Repository:
    """It has a plan, and takes for ever to bring anything else."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.brought: list[str] = []
        self.floors: dict[str, int] = {}
        self.refuses = ""

    async def bring_plan(self, origin, *_):
        """The plan."""
        self.asked.append(origin.url)
        if self.refuses in origin.url and self.refuses:
            raise EdgedError(Code.METADATA_EXPIRED, "so the test wants it")
        return PLAN, self.floors

    async def bring_manifest(self, origin, *_):
        """Never comes."""
        self.brought.append(origin.url)
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def made(folder: Path, degrade: Callable[[str], None] = lambda _: None, **parts: Any) -> AsyncIterator[Agent]:
    shop = make_shop(folder, fetcher=Repository(), **parts)
    agent = Agent(shop, Device("d", "f", "c"), degrade, lambda _: None)
    agent._course(State(model="m", serving=ONE))
    try:
        yield agent
    finally:
        await agent.close()


@pytest.mark.parametrize(
    ("limits", "paused"),
    [
        (Limits(), {}),
        (Limits(save_space=True), {Phase.FETCHING: "nearly full", Phase.STAGED: "nearly full"}),
        (Limits(save_space=True, journal_only=True), {Phase.FETCHING: "journal", Phase.STAGED: "journal"}),
        (Limits(background_paused=True), dict.fromkeys(WORK, "under pressure")),
        (
            Limits(background_paused=True, save_space=True),
            dict.fromkeys(WORK, "under pressure") | {Phase.FETCHING: "nearly full", Phase.STAGED: "nearly full"},
        ),
    ],
)
async def test_a_disk_that_is_nearly_full_pauses_what_fills_it_and_other_pressure_everything(tmp_path, limits, paused):
    async with made(tmp_path) as agent:
        agent.take(limits)
        for phase in Phase:
            assert paused.get(phase, "") in agent.paused(phase)
            assert bool(agent.paused(phase)) is (phase in paused)
        assert bool(agent.gate("m")) is (Phase.SHADOW in paused)


async def test_a_look_tells_of_what_it_began_and_under_pressure_of_why_that_waits(tmp_path: Path):
    async with made(tmp_path, settings=Update(repository="https://r")) as agent:
        agent.take(Limits(background_paused=True))
        await agent.look_at(None, begin=True)
        course = agent.courses["m"]
        assert (course.state.phase, agent.busy) == (Phase.FETCHING, True)
        await until_async(lambda: course.state.deferred, "it waits")
        assert course.state.deferred == "the device is under pressure"
        agent.take(Limits())
        await course.heard()
        assert not course.state.deferred


async def test_what_failed_for_what_may_pass_is_wanted_again_with_the_next_look_or_when_somebody_asks(tmp_path: Path):
    async with made(tmp_path, settings=Update(repository="https://r")) as agent:
        course = agent.courses["m"]
        course.post(Happened(Event.WANTED, target=TWO))
        course.post(Happened(Event.FAILED, "it was silent", Reason.DOWNLOAD_FAILED))
        await course.heard()
        agent.looking.plan = PLAN
        await agent.reconsider()
        await course.heard()
        assert course.state.phase is Phase.IDLE
        assert "with the next look" in agent.decisions["m"].why
        await agent.reconsider(now=True)
        await course.heard()
        assert course.state.phase is Phase.FETCHING
        course.post(Happened(Event.FAILED, "it was silent", Reason.DOWNLOAD_FAILED))
        await course.heard()
        polls = asyncio.create_task(agent._poll())
        await until_async(lambda: course.state.phase is Phase.FETCHING, "it was looked, and is fetched again")
        polls.cancel()
        await asyncio.gather(polls, return_exceptions=True)


async def test_who_goes_back_is_answered_once_the_route_has(tmp_path: Path, monkeypatch):
    async with made(tmp_path) as agent:
        course = agent.courses["m"]
        course.state = State(model="m", phase=Phase.SOAKING, serving=TWO, previous=ONE, target=TWO)
        flipped = []

        async def flip_back(_: State, before: object) -> None:
            await asyncio.sleep(0)
            flipped.append(before)

        monkeypatch.setattr(course.stages, "flip_back", flip_back)
        assert await Administration(agent).roll_back("m", 0) == 1
        assert flipped == [ONE]


class TestARepair:
    @pytest.fixture(autouse=True)
    def damaged(self, monkeypatch) -> None:
        """Three revisions are."""
        keys = ["a 1", "m 1", "z 1"]
        damages = [inventory.FoundDamage("0" * 64, "is gone", (key,), True) for key in keys]
        monkeypatch.setattr(inventory, "_look", lambda *_, **__: inventory.Held([], 0, 0, damages, True))

    async def test_goes_on_where_one_cannot_be_fetched_and_serves_first(self, tmp_path: Path):
        orders = []

        async def bring_revision(_, order, __) -> None:
            orders.append(order)
            if order.model != "z":
                raise EdgedError(Code.DOWNLOAD_FAILED, f"{order.model} is not there")

        async with made(tmp_path) as agent:
            agent.shop.fetcher.bring_revision = bring_revision
            agent.shop.library.store.take_in = lambda _: None
            agent.shop.library.store.reserve_bytes = 77
            with pytest.raises(EdgedError, match="m is not there"):
                await inventory.store(agent, verify=True, repair=True)
            assert [order.model for order in orders] == ["m", "a", "z"]
            assert {order.reserve_bytes for order in orders} == {77}
            assert all(order.room_bytes >= 0 for order in orders)

    async def test_is_refused_while_the_disk_is_full_before_anything_is_taken_out(self, tmp_path: Path, monkeypatch):
        looked = []
        monkeypatch.setattr(
            inventory, "_look", lambda *_, **how: looked.append(how) or inventory.Held([], 0, 0, [], True)
        )
        async with made(tmp_path) as agent:
            agent.take(Limits(save_space=True, journal_only=True))
            with pytest.raises(EdgedError) as raised:
                await inventory.store(agent, verify=True, repair=True)
            assert raised.value.code is Code.STORAGE_FULL
            assert not looked
            await inventory.store(agent, verify=True, repair=False)
            assert looked == [{"verify": True, "repair": False}]


class TestAJournalThatStandsIn:
    async def test_begins_nothing_that_the_next_start_would_not_know_of(self, tmp_path: Path):
        async with made(tmp_path, settings=Update(repository="https://r")) as agent:
            agent.shop.ledger.journal.stand_in("the disk is full")
            assert {phase for phase in Phase if agent.paused(phase)} == set(WORK) - {Phase.SOAKING}
            assert "journal" in agent.gate("m")
            await agent.look_at(None, begin=True)
            course = agent.courses["m"]
            await until_async(lambda: course.state.deferred, "it waits")
            assert "restart edged" in course.state.deferred
            assert agent.shop.fetcher.brought == []

    async def test_takes_no_decision_that_the_next_start_would_not_know_of(self, tmp_path: Path):
        async with made(tmp_path) as agent:
            administration, course = Administration(agent), agent.courses["m"]
            await administration.pin("m", 1, "pin")
            agent.shop.ledger.journal.stand_in("the disk is full")
            for decide in (
                lambda: administration.pin("m", 2, "pin"),
                lambda: administration.unpin("m"),
                lambda: administration.release("m"),
                lambda: administration.roll_back("m", 2),
            ):
                with pytest.raises(EdgedError, match="forgotten at the next start") as raised:
                    await decide()
                assert raised.value.code is Code.JOURNAL_UNWRITABLE
            assert agent.pins["m"].revision == 1
            course.state = State(model="m", phase=Phase.SOAKING, serving=TWO, previous=ONE, target=TWO)
            assert await administration.roll_back("m", 0) == 1, "what serves badly is left all the same"

    async def test_takes_nothing_out_of_the_store(self, tmp_path: Path):
        async with made(tmp_path) as agent:
            store = agent.shop.library.store
            store.path("m", 1).mkdir(parents=True)
            agent.shop.ledger.journal.stand_in("the disk is full")
            assert (await collect(agent.shop)).revisions == ()
            assert store.revisions("m") == [1]

    def test_is_also_one_in_the_runtime_folder(self, tmp_path: Path):
        (tmp_path / "state" / DATABASE).mkdir(parents=True)
        degraded: list[str] = []
        parts = SimpleNamespace(events=EventLog(10), degrade=degraded.append)
        journal = opening._journal(tmp_path / "state", tmp_path / "run", parts)
        assert journal.stands_in
        assert degraded == [journal.problem]
        assert "updates wait" in journal.problem
        journal.close()


class TestWhatGoesWrong:
    async def test_with_the_journal_ends_no_loop_and_is_told_once(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(agents, "_LOOK_S", 0.0)
        async with made(tmp_path) as agent:
            journal, events = agent.shop.ledger.journal, agent.shop.events
            asked: list[str] = []
            fails = True

            def quarantined() -> dict[str, object]:
                asked.append("")
                if fails:
                    raise EdgedError(Code.JOURNAL_UNWRITABLE, "so the test wants it")
                return {}

            monkeypatch.setattr(journal, "quarantined", quarantined)
            loop = asyncio.create_task(agent._look_again())
            await until_async(lambda: len(asked) > 3, "it goes on")
            assert [each.code for each in events.after(0)] == ["journal_unwritable"]
            fails, count = False, len(asked)
            await until_async(lambda: len(asked) > count + 1, "it goes on")
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            assert len(events.after(0)) == 1

    async def test_with_a_course_is_told(self, tmp_path: Path, monkeypatch):
        degraded: list[str] = []
        async with made(tmp_path, degrade=degraded.append) as agent:

            def paused(_: Phase) -> str:
                raise ZeroDivisionError

            monkeypatch.setattr(agent, "paused", paused)
            agent.courses["m"].look_again()
            await until_async(lambda: degraded, "it is told")
            assert "course of m" in degraded[0]


def transition(state: State) -> Transition:
    return Transition(at=NOW, model=state.model, revision=1, before="idle", event="started", after="idle")


async def test_a_signed_floor_holds_after_a_restart(tmp_path: Path):
    settings = Update(repository="https://r")
    async with made(tmp_path, settings=settings) as agent:
        agent.shop.fetcher.floors = {"m": 3}
        await agent.look_at(None, begin=True)
        refs = [Ref(revision, str(revision) * 64) for revision in range(3)]
        state = State(model="m", serving=refs[1], intended=refs[2], previous=refs[0])
        await agent.shop.ledger.do(agent.shop.ledger.journal.record, state, transition(state))
    shop = make_shop(tmp_path, settings=settings)
    agent = Agent(shop, Device("d", "f", "c"), lambda _: None, lambda _: None)
    try:
        await agent.begin()
        with pytest.raises(EdgedError) as raised:
            await Administration(agent).pin("m", 1, "pin")
        assert raised.value.code is Code.ROLLBACK_ATTACK
        passed = dict(agent.chosen["m"].passed_over)
        assert "lies below 3" in passed[0]
        assert "lies below" not in passed[1], "what serves is not taken out of service"
        assert "lies below" not in passed[2], "nor what would, but for a start that could not run it"
    finally:
        await agent.close()


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (State(model="m", phase=Phase.SOAKING, stopped=True), (0, True)),
        (State(model="m", phase=Phase.SOAKING), (1, True)),
        (State(model="m", phase=Phase.TRIAL), (0, False)),
        (State(model="m", phase=Phase.SOAKING, attempts=5), (5, False)),
    ],
)
async def test_a_stop_while_a_model_loads_is_no_crash_and_hides_none_before_it(
    tmp_path: Path, monkeypatch, found: State, kept: tuple[int, bool]
):
    loads = asyncio.Event()

    async def choose(*_: object) -> None:
        loads.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(start, "choose", choose)
    found = msgspec.structs.replace(found, serving=TWO, previous=ONE, target=TWO)
    shop = make_shop(tmp_path)
    shop.ledger.journal.record(found, transition(found))
    agent = Agent(shop, Device("d", "f", "c"), lambda _: None, lambda _: None)
    begins = asyncio.create_task(agent.begin())
    await loads.wait()
    await agent.close()
    await begins
    journal = Journal(tmp_path / "state", tmp_path / "runtime")
    left = journal.states()["m"]
    journal.close()
    assert (left.attempts, left.stopped) == kept


async def test_a_stop_while_a_start_is_being_counted_is_no_crash(tmp_path: Path, monkeypatch):
    record, begun, keeps = Journal.record, threading.Event(), threading.Event()

    def record_late(journal: Journal, *row: Any) -> None:
        begun.set()
        assert keeps.wait(30)
        record(journal, *row)

    shop = make_shop(tmp_path)
    soaking = State(model="m", phase=Phase.SOAKING, serving=TWO, previous=ONE, target=TWO, attempts=2)
    shop.ledger.journal.record(soaking, transition(soaking))
    monkeypatch.setattr(Journal, "record", record_late)
    agent = Agent(shop, Device("d", "f", "c"), lambda _: None, lambda _: None)
    begins = asyncio.create_task(agent.begin())
    await until_async(begun.is_set, "the start is being counted")
    ends = asyncio.create_task(agent.close())
    await until_async(lambda: all(task.cancelling() for task in agent._starts.values()), "it is asked to stop")
    keeps.set()
    await asyncio.gather(begins, ends)
    journal = Journal(tmp_path / "state", tmp_path / "runtime")
    left, events = journal.states()["m"], [each.event for each in journal.history("m")]
    journal.close()
    assert events == ["started", "started", "stopped"]
    again, _ = step(left, Happened(Event.STARTED))
    assert (left.stopped, again.attempts) == (True, left.attempts)


class TestCollecting:
    async def test_keeps_what_is_loaded_and_forgets_what_is_gone(self, tmp_path: Path):
        async with made(tmp_path) as agent:
            store, residency = agent.shop.library.store, agent.shop.residency
            for revision, begun in ((1, False), (2, True)):
                (store.path("m", revision)).mkdir(parents=True)
                resident = SimpleNamespace(
                    name="m", revision=revision, begun=begun, loaded=begun, leaving=False, source=Stored()
                )
                residency.know(resident)
            agent.take(Limits(save_space=True))
            await agent._collecting
            assert store.revisions("m") == [2]
            assert [each.revision for each in residency.known()] == [2]
            assert agent.shop.events.after(0)[-1].code == "store_collected"

    async def test_keeps_what_has_come_of_what_is_wanted_still(self, tmp_path: Path):
        async with made(tmp_path, settings=Update(repository="https://r")) as agent:
            course, store = agent.courses["m"], agent.shop.library.store
            course.post(Happened(Event.WANTED, target=TWO))
            course.post(Happened(Event.FAILED, "it was silent", Reason.DOWNLOAD_FAILED))
            await course.heard()
            for revision in (TWO.revision, 3):
                store.staging("m", revision).mkdir(parents=True)
            for followed, kept in ((None, True), (PLAN, True), (plan.Plan(fleet="f"), False)):
                agent.looking.plan = followed
                await agent.reconsider()
                await course.heard()
                await collect(agent.shop)
                assert (course.state.phase, course.state.kept) == (Phase.IDLE, TWO if kept else None)
                assert store.staging("m", TWO.revision).exists() is kept
                assert not store.staging("m", 3).exists()
            newest = agent.shop.ledger.journal.history("m")[-1]
            assert (newest.event, newest.revision) == (Event.SUPERSEDED, TWO.revision)

    async def test_leaves_what_is_wanted_while_it_collects(self, tmp_path: Path, monkeypatch):
        async with made(tmp_path) as agent:
            journal, store = agent.shop.ledger.journal, agent.shop.library.store
            found = journal.states

            def states() -> dict[str, State]:
                before = found()
                store.staging("m", TWO.revision).mkdir(parents=True)
                return before

            monkeypatch.setattr(journal, "states", states)
            store.staging("m", 3).mkdir(parents=True)
            await collect(agent.shop)
            assert store.keys() == {("m", TWO.revision)}


class Stored:
    """Where a revision came from."""

    origin = "store"


async def test_a_model_whose_start_still_loads_may_be_held(tmp_path: Path):
    async with made(tmp_path) as agent:
        agent.check_model("m")
        course = agent.courses.pop("m")
        with pytest.raises(EdgedError):
            agent.check_model("m")
        agent.shop.residency.routes["m"] = object()
        agent.check_model("m")
        agent.courses["m"] = course


async def test_what_is_no_models_name_is_not_pinned(tmp_path: Path):
    async with made(tmp_path) as agent:
        with pytest.raises(EdgedError, match="is no model's name"):
            await Administration(agent).pin("../revisions/m", 1, "pin")
        assert agent.pins == {}


class TestWithoutARepository:
    @pytest.mark.parametrize("decided", ["pin", "rollback"])
    async def test_nothing_is_decided_that_would_have_to_be_fetched(self, tmp_path: Path, decided: str):
        async with made(tmp_path) as agent:
            administration = Administration(agent)
            with pytest.raises(EdgedError, match="there is no repository to look at") as raised:
                await (administration.pin("m", 9, "pin") if decided == "pin" else administration.roll_back("m", 9))
            assert raised.value.code is Code.REVISION_NOT_FOUND
            assert "update.repository" in raised.value.hint
            assert (agent.pins, agent.courses["m"].state.phase) == ({}, Phase.IDLE)
            assert await administration._went_back("m") is None

    async def test_what_a_stick_may_bring_is_decided(self, tmp_path: Path):
        async with made(tmp_path) as agent:
            agent.looking.stick = tmp_path
            await Administration(agent).pin("m", 9, "pin")
            assert agent.pins["m"].revision == 9
