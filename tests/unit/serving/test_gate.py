"""Turns of all models together: so many at a time, the best first, nobody for ever, and none is lost."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from support.standins import Clock, settle

from edged.serving.gate import HELD_S, Gate
from edged.serving.waiting import FAIR_BATCHES


class Callers:
    """Those who wait for a turn, by name; `order` is how they got it."""

    def __init__(self, gate):
        self.gate = gate
        self.order = []
        self.turns = {}
        self.tasks = {}

    def come(self, name, level=1):
        self.tasks[name] = asyncio.create_task(self._take(name, level))

    async def _take(self, name, level):
        self.turns[name] = await self.gate.turn(level if callable(level) else lambda: level)
        self.order.append(name)

    def end(self, name):
        self.gate.end(self.turns.pop(name))


@pytest.fixture
async def callers():
    made = Callers(Gate())
    yield made
    made.gate.most = 0
    await settle()
    assert all(task.done() for task in made.tasks.values())


async def test_without_a_bound_everybody_goes_at_once(callers):
    for name in range(50):
        callers.come(name)
    await settle()
    assert len(callers.turns) == 50


@pytest.mark.parametrize("most", [1, 3])
async def test_so_many_have_a_turn_at_a_time(callers, most):
    callers.gate.most = most
    for name in range(6):
        callers.come(name)
    for done in range(6):
        await settle()
        assert len(callers.turns) == min(most, 6 - done)
        callers.end(callers.order[done])
    assert callers.order == list(range(6))


async def test_the_best_goes_first_by_what_it_is_when_the_turn_comes(callers):
    callers.gate.most = 1
    changing = [3]
    callers.come("first")
    await settle()
    callers.come("middle", 2)
    callers.come("changes", lambda: changing[0])
    callers.come("low", 3)
    await settle()
    changing[0] = 1
    for name in ("first", "changes", "middle", "low"):
        callers.end(name)
        await settle()
    assert callers.order == ["first", "changes", "middle", "low"]


async def test_however_many_better_ones_come_whoever_waits_longest_has_one_turn_of_eight(callers):
    callers.gate.most = 1
    callers.come(0)
    await settle()
    callers.come("low", 3)
    for name in range(1, 100):
        callers.come(name)
        await settle()
        if "low" in callers.turns:
            break
        callers.end(name - 1)
        await settle()
    assert callers.order == [*range(FAIR_BATCHES), "low"]


async def test_fewer_turns_hold_for_those_to_come_and_more_at_once(callers):
    callers.gate.most = 3
    for name in range(6):
        callers.come(name)
    await settle()
    callers.gate.most = 1
    for name in range(2):
        callers.end(name)
        await settle()
        assert len(callers.order) == 3, "those that there are go on, and no further one begins"
    callers.end(2)
    await settle()
    assert callers.order == [0, 1, 2, 3]
    callers.gate.most = 0
    await settle()
    assert len(callers.order) == 6


async def test_a_bound_that_comes_while_many_have_turns_is_kept_once_they_end(callers):
    for name in range(4):
        callers.come(name)
    await settle()
    callers.gate.most = 1
    callers.come("next")
    for name in range(4):
        await settle()
        assert "next" not in callers.turns
        callers.end(name)
    await settle()
    assert "next" in callers.turns


async def test_a_turn_that_lasts_too_long_does_not_hold_up_the_others():
    clock, callers = Clock(), Callers(Gate())
    callers.gate.most = 1
    for name in ("hangs", "next", "last"):
        callers.come(name)
    await settle()
    clock.forward(HELD_S * 0.9)
    await settle()
    assert callers.order == ["hangs"]
    clock.forward(HELD_S * 0.2)
    await settle()
    assert callers.order == ["hangs", "next"], "one turn, and the one that counts no more"
    callers.end("hangs")
    await settle()
    assert callers.order == ["hangs", "next"]
    callers.end("next")
    await settle()
    assert callers.order == ["hangs", "next", "last"]


async def test_whoever_gives_up_takes_no_turn(callers):
    callers.gate.most = 1
    for name in range(3):
        callers.come(name)
    await settle()
    callers.tasks[1].cancel()
    await settle()
    callers.end(0)
    await settle()
    assert callers.order == [0, 2]


async def test_a_turn_given_to_whom_gives_up_in_the_same_moment_goes_to_the_next(callers):
    callers.gate.most = 1
    for name in range(3):
        callers.come(name)
    await settle()
    callers.end(0)
    callers.tasks[1].cancel()
    await settle()
    assert callers.order == [0, 2]


async def test_whatever_comes_goes_and_changes_nobody_is_forgotten(callers):
    seed = Random().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    random, most = Random(seed), 0
    for name in range(500):
        callers.come(name, random.randint(1, 3))
        for _ in range(random.randrange(3)):
            if callers.turns:
                callers.end(random.choice(list(callers.turns)))
        if random.random() < 0.1:
            random.choice(list(callers.tasks.values())).cancel()
        if random.random() < 0.1:
            most = callers.gate.most = random.randrange(4)
        await asyncio.sleep(0)
    while not all(task.done() for task in callers.tasks.values()):
        assert callers.turns, f"nobody has a turn, and some wait, {most} being allowed"
        callers.end(next(iter(callers.turns)))
        await settle()
