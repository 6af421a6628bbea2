"""Frames through the arena: given up at random, and late at random; every answer is that of its own request."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.polling import PATIENCE_S

from edged.errors import Code, EdgedError
from edged.worker import watch
from edged.worker.arena import LARGE_BYTES
from edged.worker.process import Caps, Worker, start

FRAME = (1080, 1920, 3)
CAPS = Caps(PATIENCE_S, PATIENCE_S, PATIENCE_S, 2**33, 2**26)
SAME = ([helper.make_node("Identity", ["x"], ["y"])], [("x", "UINT8", [-1, *FRAME])], [("y", "UINT8", [-1, *FRAME])])


@asynccontextmanager
async def camera(folder: Any, caps: Caps = CAPS) -> AsyncIterator[tuple[Any, Worker]]:
    load = folder.load(*SAME, max_batch_size=4)
    worker = await start(load, caps)
    try:
        yield load, worker
    finally:
        worker.kill()
        await worker.ended


def frame(seed: int, rows: int = 1) -> np.ndarray:
    """A frame that no other is like: its first and last bytes tell which."""
    made = np.full((rows, *FRAME), seed % 251, np.uint8)
    for row in range(rows):
        marks = np.frombuffer((seed * 8 + row).to_bytes(8, "little"), np.uint8)
        made[row].reshape(-1)[:8] = made[row].reshape(-1)[-8:] = marks
    return made


def asked(batch_of: Any, load: Any, *frames: np.ndarray) -> Any:
    """A batch of frames whose answer has a room in the arena."""
    made = batch_of(load, [{"x": each} for each in frames])
    made.expected = (sum(each.nbytes for each in frames),)
    return made


def at_rest(worker: Worker) -> bool:
    return worker._arena.slots.taken_bytes == 0


async def answered_rightly(made: Any, worker: Worker, *frames: np.ndarray) -> None:
    found = await made.by(worker)
    for answer, sent in zip(found, frames, strict=True):
        assert np.array_equal(answer["y"], sent)


def test_frames_go_through_the_arena_both_ways(run, folder, batch_of):
    async def test() -> None:
        async with camera(folder) as (load, worker):
            sent = [frame(1), frame(2, rows=2)]
            made = asked(batch_of, load, *sent)
            asking = asyncio.ensure_future(answered_rightly(made, worker, *sent))
            await asyncio.sleep(0)
            assert worker._arena.slots.taken_bytes == 2 * sum(each.nbytes for each in sent)
            await asking
            assert at_rest(worker)
            assert worker._arena.used_bytes >= 2 * sum(each.nbytes for each in sent)

    run(test())


@pytest.mark.parametrize("arena_mib", [1, 6, 7, 13])
def test_what_finds_no_room_goes_by_the_link(run, folder, batch_of, arena_mib):
    async def test() -> None:
        caps = Caps(PATIENCE_S, PATIENCE_S, PATIENCE_S, 2**33, arena_mib * 2**20)
        async with camera(folder, caps) as (load, worker):
            for seed in range(3):
                await answered_rightly(asked(batch_of, load, frame(seed)), worker, frame(seed))
            assert at_rest(worker)

    run(test())


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
def test_only_what_is_large_goes_through_the_arena(run, folder, batch_of, size):
    async def test() -> None:
        node = helper.make_node("Identity", ["x"], ["y"])
        load = folder.load([node], [("x", "UINT8", [-1, -1])], [("y", "UINT8", [-1, -1])])
        worker = await start(load, CAPS)
        try:
            array = np.arange(size, dtype=np.uint32).astype(np.uint8).reshape(1, size)
            made = asked(batch_of, load, array)
            await answered_rightly(made, worker, array)
            assert (worker._arena.used_bytes > 0) == (size >= LARGE_BYTES)
        finally:
            await worker.stop(PATIENCE_S)

    run(test())


def test_slots_of_a_caller_who_gave_up_stay_taken_until_the_worker_has_answered(run, folder, batch_of):
    async def test() -> None:
        async with camera(folder) as (load, worker):
            gone = asyncio.ensure_future(asked(batch_of, load, frame(1)).by(worker))
            await asyncio.sleep(0)
            taken = worker._arena.slots.taken_bytes
            gone.cancel()
            await asyncio.wait([gone])
            assert worker._arena.slots.taken_bytes == taken > 0, "the worker may still write there"
            await answered_rightly(asked(batch_of, load, frame(2)), worker, frame(2))
            assert at_rest(worker)

    run(test())


def test_slots_of_a_worker_that_died_are_not_given_out_again(run, folder, batch_of):
    async def test() -> None:
        async with camera(folder) as (load, worker):
            asking = asyncio.ensure_future(asked(batch_of, load, frame(1)).by(worker))
            await asyncio.sleep(0)
            worker.kill()
            for each in (asking, asked(batch_of, load, frame(2)).by(worker)):
                with pytest.raises(EdgedError) as caught:
                    await each
                assert caught.value.code is Code.WORKER_CRASHED

    run(test())


def test_a_worker_that_hangs_with_nobody_waiting_is_ended_all_the_same(run, folder, batch_of, monkeypatch):
    monkeypatch.setattr(watch, "_BUSY_S", 0.01)

    async def test() -> None:
        caps = Caps(PATIENCE_S, PATIENCE_S, 0.3, 2**33, 2**26)
        async with camera(folder, caps) as (load, worker):
            os.kill(worker.pid, signal.SIGSTOP)
            gone = asyncio.ensure_future(asked(batch_of, load, frame(1)).by(worker))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait([gone])
            assert (await worker.ended).text == "an inference took longer than 0.3 s (killed by SIGKILL)"

    run(test())


async def given_up_at_random(folder: Any, batch_of: Any, frames: int) -> None:
    """Up to three under way at a time; some are given up after some turns of the loop, some after some time."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    chance = random.Random(seed)
    told = {"answered": 0, "given up": 0}

    async def ask(number: int) -> None:
        sent = [frame(number * 4 + each) for each in range(chance.choice([1, 1, 2]))]
        asking = asyncio.ensure_future(answered_rightly(asked(batch_of, load, *sent), worker, *sent))
        fate = chance.choice(["waits", "turns", "time"])
        if fate == "turns":
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
        if fate != "waits":
            await asyncio.wait([asking], timeout=chance.uniform(0, 0.01) if fate == "time" else 0)
            asking.cancel()
        try:
            await asking
            told["answered"] += 1
        except asyncio.CancelledError:
            told["given up"] += 1

    async with camera(folder) as (load, worker):
        for first in range(0, frames, 3):
            await asyncio.gather(*(ask(number) for number in range(first, min(first + 3, frames))))
        await answered_rightly(asked(batch_of, load, frame(frames)), worker, frame(frames))
        assert at_rest(worker), f"{worker._arena.slots.taken_bytes} bytes are still taken"
        assert not worker.ended.done()
    assert sum(told.values()) == frames
    assert min(told.values()) > 0, told


def test_frames_given_up_at_random_leave_no_slot_and_no_wrong_answer(run, folder, batch_of):
    run(given_up_at_random(folder, batch_of, 100))


@pytest.mark.slow
def test_two_thousand_frames_given_up_at_random(run, folder, batch_of):
    run(given_up_at_random(folder, batch_of, 2000))
