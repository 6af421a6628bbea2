"""Workers in control groups of the kernel's own, where cgroup v2 has the memory controller: elsewhere skipped."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from onnx import helper
from support import cgroups
from support.descriptors import there
from support.hostile_engine import TRIGGER
from support.interpreter import hostile_interpreter
from support.loads import changed
from support.polling import PATIENCE_S

from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.runtimes.base import ENGINES, Engine
from edged.worker.cgroup import Groups
from edged.worker.process import Caps, Worker, start
from edged.worker.templates import Templates

CAPS = Caps(PATIENCE_S, PATIENCE_S, PATIENCE_S, 200 * 2**20, 2**24)
DOUBLE = ([helper.make_node("Add", ["x", "x"], ["y"])], [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])


@pytest.fixture
def inner() -> Iterator[Path]:
    yield from cgroups.delegated()


@pytest.fixture
async def groups(inner):
    found = Groups.find()
    assert found.why_not == ""
    yield found
    async with asyncio.timeout(PATIENCE_S):
        while list(inner.glob("worker-*")):  # noqa: ASYNC110 - folders tell nobody
            await asyncio.sleep(0.001)


@pytest.fixture
def hostile(tmp_path, folder, monkeypatch):
    """Makes loads of models that misbehave when they meet TRIGGER."""
    monkeypatch.setattr(sys, "executable", str(hostile_interpreter(tmp_path / "venv")))
    monkeypatch.setitem(ENGINES, "hostile", Engine("hostile", "support.hostile_engine", ("msgspec",), "none", {}))

    def load(does: str):
        file = folder.file("model.json", json.dumps({"does": does}).encode())
        return changed(folder.load(*DOUBLE), runtime="hostile", file=file)

    return load


def group_of(worker: Worker) -> Path:
    return worker._group.folder


async def asked(worker: Worker, batch_of, load, value: float):
    return (await batch_of(load, [{"x": np.full((1, 2), value, np.float32)}]).by(worker))[0]["y"].tolist()


async def test_a_worker_is_held_by_the_kernel(groups, inner, folder, batch_of):
    load = folder.load(*DOUBLE)
    worker = await start(load, CAPS, groups=groups)
    assert worker.bounds().startswith("memory 200 MiB, held by the kernel; load")
    assert group_of(worker).parent == inner
    assert (group_of(worker) / "cgroup.procs").read_text().split() == [str(worker.pid)]
    assert (group_of(worker) / "memory.max").read_text().strip() == str(200 * 2**20)
    assert (group_of(worker) / "memory.oom.group").read_text().strip() == "1"
    assert await asked(worker, batch_of, load, 1.5) == [[3.0, 3.0]]
    taken = worker.usage().charged_bytes
    assert 2**20 < taken <= 200 * 2**20
    await worker.stop(PATIENCE_S)


async def test_a_worker_at_its_cap_is_ended_and_the_reason_is_told(groups, hostile, batch_of):
    load = hostile("allocate")
    worker = await start(load, CAPS, groups=groups)
    with pytest.raises(EdgedError) as caught:
        await asked(worker, batch_of, load, TRIGGER)
    text = "the kernel ended the worker, which had used up the memory of its cap of 200 MiB"
    assert (caught.value.code, caught.value.message) == (Code.WORKER_CRASHED, text)
    assert (await worker.ended).text == f"{text} (killed by SIGKILL)"


async def test_memory_that_is_taken_before_the_model_is_loaded_counts(groups, folder):
    with pytest.raises(EdgedError, match="its cap of 2 MiB"):
        await start(folder.load(*DOUBLE), msgspec.structs.replace(CAPS, memory_bytes=2**21), groups=groups)


async def test_what_a_worker_forked_is_in_its_group_and_goes_with_it(groups, hostile, batch_of):
    load = hostile("fork")
    worker = await start(load, CAPS, groups=groups)
    await asked(worker, batch_of, load, TRIGGER)
    pids = [int(pid) for pid in (group_of(worker) / "cgroup.procs").read_text().split()]
    assert len(pids) == 3
    worker.kill()
    await worker.ended
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], PATIENCE_S)


@pytest.fixture
async def templates():
    made = Templates(EventLog(10))
    yield made
    await made.stop()
    ctypes.CDLL(None).prctl(36, 0)  # orphans are nobody's here again


async def test_forked_workers_have_groups_of_their_own(groups, templates, folder, batch_of):
    load = folder.load(*DOUBLE)
    workers = [await start(load, CAPS, templates.make, groups) for _ in range(3)]
    assert {worker.made for worker in workers} == {"forked"}
    assert len({group_of(worker) for worker in workers}) == 3
    for worker in workers:
        own = (group_of(worker) / "cgroup.procs").read_text().split()
        assert own == [str(worker.pid)]
        assert await asked(worker, batch_of, load, 2.0) == [[4.0, 4.0]]
        await worker.stop(PATIENCE_S)
    assert not [worker.pid for worker in workers if there(worker.pid)]


async def test_groups_leave_nothing(groups, inner):
    for _ in range(50):
        group = groups.place(os.getpid(), 2**30)
        (inner / "front/cgroup.procs").write_text(str(os.getpid()))
        groups.remove(group)
        assert not list(inner.glob("worker-*"))
