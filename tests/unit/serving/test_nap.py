"""Waits that are shorter than a timer of the loop."""

import asyncio
import time
from pathlib import Path

import pytest

from edged.serving.nap import Nap

US = 1000
MS = 1000 * US
LIMIT_S = 30

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
async def nap():
    nap = Nap()
    yield nap
    nap.close()


def new():
    return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("limit_ns", [1, 200 * US, 4 * MS, 20 * MS])
async def test_a_wait_ends_when_its_time_is_up_and_not_before(nap, limit_ns):
    began_ns = time.monotonic_ns()
    async with asyncio.timeout(LIMIT_S):
        await nap.wait(new(), limit_ns)
    assert time.monotonic_ns() - began_ns >= limit_ns * 0.9  # the loop rounds its own timers


@pytest.mark.parametrize("limit_ns", [4 * MS, 3_600_000 * MS])
async def test_news_end_a_wait(nap, limit_ns):
    news = new()
    asyncio.get_running_loop().call_soon(news.set_result, None)
    async with asyncio.timeout(LIMIT_S):
        await nap.wait(news, limit_ns)


async def test_many_wait_at_once_and_each_for_its_own_time(nap):
    ended = []

    async def wait(limit_ns):
        await nap.wait(new(), limit_ns)
        ended.append(limit_ns)

    limits = [3 * MS, MS, 2 * MS, 4 * MS]
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*map(wait, limits))
    assert sorted(ended) == sorted(limits)


async def test_who_gave_up_is_not_in_the_way_of_others(nap):
    given_up = asyncio.ensure_future(nap.wait(new(), MS))
    await asyncio.sleep(0)
    given_up.cancel()
    async with asyncio.timeout(LIMIT_S):
        await nap.wait(new(), 2 * MS)
    assert given_up.cancelled()


def timers():
    """How many timers this process has open."""
    found = [descriptor for descriptor in DESCRIPTORS.iterdir() if descriptor.is_symlink()]
    return sum("timerfd" in str(descriptor.readlink()) for descriptor in found)


async def test_one_descriptor_serves_all_and_is_closed():
    before = timers()
    nap = Nap()
    for _ in range(5):
        await nap.wait(new(), 50 * US)
    assert timers() == before + 1
    nap.close()
    assert timers() == before
