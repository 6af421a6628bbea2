"""The agent: what it pauses, whom it tells, and where it looks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.courses import ONE, TWO, make_shop
from support.polling import until_async

from edged.config.update import Update
from edged.errors import Code, EdgedError
from edged.types import Limits
from edged.update import inventory, plan
from edged.update.administration import Administration
from edged.update.agent import Agent, Device
from edged.update.machine import WORK, Phase, State

PLAN = plan.Plan(fleet="f", models={"m": {"c": plan.ClassPlan(revision=2)}})


class Repository:
    """It has a plan, and takes for ever to bring anything else."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def bring_plan(self, origin, *_):
        """The plan."""
        self.asked.append(origin.url)
        return PLAN, {}

    async def bring_manifest(self, *_):
        """Never comes."""
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def made(folder: Path, **parts) -> AsyncIterator[Agent]:
    shop = make_shop(folder, fetcher=Repository(), **parts)
    agent = Agent(shop, Device("d", "f", "c"), lambda _: None, lambda _: None)
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


class TestAStick:
    async def polled(self, agent: Agent) -> str:
        polls = asyncio.create_task(agent._poll())
        asked = agent.shop.fetcher.asked
        count = len(asked)
        await until_async(lambda: asked, "it has asked", holds=lambda asked: len(asked) > count)
        polls.cancel()
        return asked[-1]

    async def test_that_was_taken_away_is_looked_at_no_more(self, tmp_path: Path):
        stick = tmp_path / "stick"
        (stick / "metadata").mkdir(parents=True)
        async with made(tmp_path, settings=Update(repository="https://r")) as agent:
            agent.courses["m"].state = State(model="m", serving=TWO)  # what the plan wants
            await agent.look_at(stick, begin=True)
            assert await self.polled(agent) == f"file://{stick}"
            (stick / "metadata").rmdir()
            assert await self.polled(agent) == "https://r"
            assert agent.stick is None

    async def test_of_which_something_is_under_way_is_kept(self, tmp_path: Path):
        stick = tmp_path / "stick"
        (stick / "metadata").mkdir(parents=True)
        async with made(tmp_path, settings=Update(repository="https://r")) as agent:
            await agent.look_at(stick, begin=True)
            assert agent.busy
            (stick / "metadata").rmdir()
            assert await self.polled(agent) == f"file://{stick}"


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


class Stored:
    """Where a revision came from."""

    origin = "store"


async def test_what_is_no_models_name_is_not_pinned(tmp_path: Path):
    async with made(tmp_path) as agent:
        with pytest.raises(EdgedError, match="is no model's name"):
            await Administration(agent).pin("../revisions/m", 1, "pin")
        assert agent.pins == {}
