"""Loads and unloads without end: memory stays where it was, and nothing is left open."""

from __future__ import annotations

import ctypes
import gc
import os

import numpy as np
import psutil
import pytest
from onnx import helper
from support.descriptors import held
from support.polling import PATIENCE_S

from edged.events import EventLog
from edged.worker import usage
from edged.worker.process import Caps, start
from edged.worker.templates import Templates

CAPS = Caps(PATIENCE_S, PATIENCE_S, PATIENCE_S, 2**33, 2**24)
DOUBLE = ([helper.make_node("Add", ["x", "x"], ["y"])], [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])
ROWS = 40_000  # enough for the arena


async def loads_and_unloads(folder, batch_of, count: int) -> None:
    """With the arena in use each time."""
    templates = Templates(EventLog(10))
    load = folder.load(*DOUBLE, max_batch_size=ROWS)
    array = np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2)
    batch = batch_of(load, [{"x": array}])
    batch.expected = (array.nbytes,)

    async def once() -> None:
        worker = await start(load, CAPS, templates.make)
        assert worker.made == "forked"
        assert np.array_equal((await batch.by(worker))[0]["y"], 2 * array)
        assert (await worker.stop(PATIENCE_S)).text == "exit status 0"

    def taken() -> tuple[int, int]:
        gc.collect()
        template = templates._warm["onnxruntime"].child.pid
        return usage.resident_bytes(os.getpid()), usage.resident_bytes(template)

    try:
        for _ in range(20):  # what is made once is made
            await once()
        before, descriptors = taken(), sorted(held().values())
        for _ in range(count):
            await once()
        after = taken()
        assert sorted(held().values()) == descriptors
        assert len(psutil.Process().children()) == 1, "the template"
        assert max(now - then for now, then in zip(after, before, strict=True)) < 2 * 2**20, (before, after)
    finally:
        await templates.stop()
        ctypes.CDLL(None).prctl(36, 0)


async def test_memory_is_flat_over_a_hundred(folder, batch_of):
    await loads_and_unloads(folder, batch_of, 100)


@pytest.mark.slow
async def test_memory_is_flat_over_ten_thousand(folder, batch_of):
    await loads_and_unloads(folder, batch_of, 10_000)
