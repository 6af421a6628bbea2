"""Waiting for the next change: the newest, nothing queued, nobody missed."""

import asyncio

import pytest
from support.standins import settle

from edged.changes import Changes


@pytest.fixture
async def waiting():
    tasks = []

    def wait(changes, count):
        tasks.append(asyncio.create_task(changes.after(count)))
        return tasks[-1]

    yield wait
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_change_that_has_happened_is_not_waited_for():
    changes = Changes()
    changes.mark()
    changes.mark()
    assert await changes.after(0) == 2
    assert await changes.after(1) == 2


async def test_one_that_has_not_is(waiting):
    changes = Changes()
    waiter = waiting(changes, 0)
    await settle()
    assert not waiter.done()
    changes.mark()
    assert await waiter == 1


async def test_many_changes_are_one_to_who_is_slow(waiting):
    changes = Changes()
    waiter = waiting(changes, 0)
    await settle()
    for _ in range(5):
        changes.mark()
    assert await waiter == 5


async def test_everybody_who_waits_is_told(waiting):
    changes = Changes()
    waiters = [waiting(changes, 0) for _ in range(3)]
    await settle()
    changes.mark()
    assert await asyncio.gather(*waiters) == [1, 1, 1]


async def test_who_waits_for_a_later_one_goes_on_waiting(waiting):
    changes = Changes()
    waiter = waiting(changes, 2)
    for _ in range(2):
        changes.mark()
        await settle()
        assert not waiter.done()
    changes.mark()
    assert await waiter == 3


async def test_no_change_between_looking_and_waiting_is_missed(waiting):
    """The pattern of every user: take the count, read the state, wait for what came after the count."""
    changes = Changes()
    count = changes.count
    changes.mark()
    assert await waiting(changes, count) == 1


async def test_who_gives_up_takes_nobody_along(waiting):
    changes = Changes()
    one, other = waiting(changes, 0), waiting(changes, 0)
    await settle()
    one.cancel()
    await settle()
    changes.mark()
    assert await other == 1


def test_a_change_needs_nobody_who_waits():
    changes = Changes()
    changes.mark()
    assert changes.count == 1
