"""A worker is held to its caps, and to what it was given, whether or not somebody waits for it."""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import numpy as np
import pytest
from onnx import helper

from edged.errors import Code, EdgedError
from edged.worker import process
from edged.worker.child import Exit
from edged.worker.process import Caps, start

PATIENCE_S = 60.0
CAPS = Caps(PATIENCE_S, PATIENCE_S, PATIENCE_S, 2**33, 2**24)
DOUBLE = ([helper.make_node("Add", ["x", "x"], ["y"])], [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])


@pytest.fixture
async def made(folder):
    """A load, and a worker that has done it."""
    load = folder.load(*DOUBLE, max_batch_size=2**24)
    worker = await start(load, CAPS)
    yield load, worker
    worker.kill()
    await worker.ended


async def test_memory_beyond_the_cap_ends_a_worker_as_it_loads(folder):
    with pytest.raises(EdgedError) as caught:
        await start(folder.load(*DOUBLE), msgspec.structs.replace(CAPS, memory_bytes=2**20))
    assert caught.value.code is Code.WORKER_CRASHED
    assert caught.value.message.endswith("MiB, its cap is 1 MiB")
    assert caught.value.hint == "see caps.memory_mib of the variant and workers.memory_mib of the settings"


async def test_memory_beyond_the_cap_ends_a_worker_when_it_has_answered(made, batch_of, monkeypatch):
    """However fast it was: what it took it keeps."""
    load, worker = made
    monkeypatch.setattr(process, "_WATCH_S", PATIENCE_S)
    worker.caps = msgspec.structs.replace(CAPS, memory_bytes=worker.usage().resident_bytes + 2**23)
    batch = batch_of(load, [{"x": np.ones((2**22, 2), np.float32)}])
    assert (await batch.by(worker))[0]["y"].shape == (2**22, 2)
    assert "its cap is" in (await worker.ended).text


async def test_a_worker_whose_link_is_gone_is_ended(made, batch_of, monkeypatch):
    monkeypatch.setattr(process, "_CUT_OFF_S", 0.05)
    load, worker = made
    os.kill(worker.pid, signal.SIGSTOP)  # it does not go of its own accord
    worker._link.close()
    assert await worker.ended == Exit("killed by SIGKILL")
    with pytest.raises(EdgedError) as caught:
        await batch_of(load, [{"x": np.ones((1, 2), np.float32)}]).by(worker)
    assert caught.value.code is Code.WORKER_CRASHED


async def test_nothing_is_watched_once_all_have_their_answers(made, batch_of, monkeypatch):
    monkeypatch.setattr(process, "_WATCH_S", 0.001)
    load, worker = made
    batches = [batch_of(load, [{"x": np.ones((1, 2), np.float32)}]) for _ in range(20)]
    await asyncio.gather(*(batch.by(worker) for batch in batches))
    await asyncio.sleep(0)
    assert worker._replies_due == 0
    assert worker._watch.cancelled()


@pytest.mark.parametrize(("start_", "size", "end"), [(0, 11, 10), (5, 6, 10), (0, -1, 10), (11, 0, 10)])
def test_an_answer_that_does_not_fit_is_refused(start_, size, end):
    with pytest.raises(EdgedError, match="larger than what it came in"):
        process._part(memoryview(bytes(20)), start_, size, end)


def test_an_answer_that_fits_is_taken():
    assert bytes(process._part(memoryview(b"0123456789"), 2, 3, 5)) == b"234"
