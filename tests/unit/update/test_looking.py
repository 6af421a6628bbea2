"""Where the agent looks: the usual repository or a stick, for good or only to be told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from support.courses import ONE, TWO, make_shop
from support.polling import until_async

from edged.config.update import Update
from edged.errors import Code, EdgedError
from edged.update import plan
from edged.update.agent import Agent
from edged.update.fetcher import Origin
from edged.update.machine import Phase, State
from edged.update.share import Device

USUAL = "https://r"


def planned(revision: int) -> plan.Plan:
    return plan.Plan(fleet="f", models={"m": {"c": plan.ClassPlan(revision=revision)}})


class Repositories:
    """The usual one wants revision 1, which serves, any other revision 2; a manifest comes from none."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.manifests: list[str] = []
        self.refusing: set[str] = set()
        self.never = asyncio.Event()

    async def bring_plan(self, origin: Origin, *_: object) -> tuple[plan.Plan, Mapping[str, int]]:
        """The plan."""
        self.asked.append(origin.url)
        if origin.url in self.refusing:
            raise EdgedError(Code.METADATA_EXPIRED, "so the test wants it")
        return planned(1 if origin.url == USUAL else 2), {}

    async def bring_manifest(self, origin: Origin, *_: object) -> None:
        """Refused, or it takes for ever."""
        self.manifests.append(origin.url)
        if origin.url in self.refusing or "manifests" in self.refusing:
            raise EdgedError(Code.REVISION_NOT_FOUND, "so the test wants it")
        await self.never.wait()


@contextlib.asynccontextmanager
async def made(folder: Path, repository: str = USUAL) -> AsyncIterator[tuple[Agent, Repositories]]:
    repositories = Repositories()
    shop = make_shop(folder, fetcher=repositories, settings=Update(repository=repository))
    agent = Agent(shop, Device("d", "f", "c"), lambda _: None, lambda _: None)
    agent._course(State(model="m", serving=ONE))
    try:
        yield agent, repositories
    finally:
        await agent.close()


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    folder = tmp_path / "stick"
    (folder / "metadata").mkdir(parents=True)
    return folder


@contextlib.asynccontextmanager
async def polling(agent: Agent) -> AsyncIterator[None]:
    polls = asyncio.create_task(agent._poll())
    try:
        yield
    finally:
        polls.cancel()
        await asyncio.gather(polls, return_exceptions=True)


async def polled(agent: Agent, asked: list[str]) -> str:
    """Where the next poll looks."""
    count = len(asked)
    async with polling(agent):
        await until_async(lambda: len(asked) > count, "it has asked")
    return asked[-1]


class TestAStick:
    async def test_of_which_something_is_under_way_is_kept(self, tmp_path: Path, stick: Path):
        async with made(tmp_path) as (agent, repositories):
            await agent.look_at(stick, begin=True)
            assert agent.busy
            (stick / "metadata").rmdir()
            assert await polled(agent, repositories.asked) == f"file://{stick}"
            assert agent.origin().url == f"file://{stick}"

    async def test_that_is_left_in_is_looked_at_no_more_once_nothing_of_it_is_under_way(
        self, tmp_path: Path, stick: Path
    ):
        async with made(tmp_path) as (agent, repositories):
            agent.courses["m"].state = State(model="m", serving=TWO)  # what the stick's plan wants
            await agent.look_at(stick, begin=True)
            assert agent.looking.stick == stick
            assert await polled(agent, repositories.asked) == USUAL
            assert agent.looking.stick is None

    @pytest.mark.parametrize("phase", [Phase.TRIAL, Phase.SHADOW, Phase.SOAKING])
    async def test_is_needed_no_more_once_its_revision_is_here(self, tmp_path: Path, stick: Path, phase: Phase):
        """It may wait or soak for a day, or for ever."""
        async with made(tmp_path) as (agent, repositories):
            agent.courses["m"].state = State(model="m", phase=phase, serving=ONE, target=TWO)
            agent.looking.stick = stick
            assert await polled(agent, repositories.asked) == USUAL

    async def test_is_looked_at_until_it_is_taken_away_where_there_is_nothing_else(self, tmp_path: Path, stick: Path):
        async with made(tmp_path, repository="") as (agent, repositories):
            agent.courses["m"].state = State(model="m", serving=TWO)
            await agent.look_at(stick, begin=True)
            assert await polled(agent, repositories.asked) == f"file://{stick}"
            (stick / "metadata").rmdir()
            await agent.looking.forget_stick()
            assert not agent.looking.anywhere

    async def test_that_is_refused_does_not_stand_in_the_way_of_the_usual_repository(self, tmp_path: Path, stick: Path):
        async with made(tmp_path) as (agent, repositories):
            repositories.refusing.add(f"file://{stick}")
            with pytest.raises(EdgedError, match="so the test wants it"):
                await agent.look_at(stick, begin=True)
            assert agent.origin().url == USUAL
            assert await polled(agent, repositories.asked) == USUAL


class TestACheck:
    async def test_begins_nothing_later_either(self, tmp_path: Path, stick: Path):
        async with made(tmp_path) as (agent, repositories):
            await agent.look_at(None, begin=True)
            repositories.refusing.add("manifests")
            with pytest.raises(EdgedError, match="so the test wants it"):
                await agent.look_at(stick, begin=False)
            assert agent.decisions["m"].go_for == 2, "it is told what would be begun"
            assert repositories.manifests == [f"file://{stick}"], "of the repository that was named"
            await agent.reconsider()
            await agent.courses["m"].heard()
            assert (agent.courses["m"].state.phase, agent.decisions["m"].go_for) == (Phase.IDLE, 0)
            assert agent.origin().url == USUAL

    async def test_of_the_usual_repository_does_not_either(self, tmp_path: Path):
        async with made(tmp_path) as (agent, repositories):
            agent.courses["m"].state = State(model="m")
            repositories.refusing.add("manifests")
            with pytest.raises(EdgedError):
                await agent.look_at(None, begin=False)
            assert agent.decisions["m"].go_for == 1
            await agent.reconsider()
            await agent.courses["m"].heard()
            assert agent.courses["m"].state.phase is Phase.IDLE


async def test_a_stick_that_cannot_be_read_has_been_taken_away(tmp_path: Path, monkeypatch):
    async with made(tmp_path, repository="") as (agent, _):
        agent.looking.stick = tmp_path

        def is_dir(_: Path) -> bool:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "is_dir", is_dir)
            await agent.looking.forget_stick()
        assert agent.looking.stick is None
