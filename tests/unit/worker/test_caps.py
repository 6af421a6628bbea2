"""A worker is held to its caps, and to what it was given, whether or not somebody waits for it."""

from __future__ import annotations

import os
import signal

import msgspec
import numpy as np
import pytest
from onnx import helper
from support import cgroups
from support.polling import PATIENCE_S
from support.standins import Clock

from edged.errors import Code, EdgedError
from edged.worker import placing, process, watch
from edged.worker.cgroup import Groups
from edged.worker.child import Exit
from edged.worker.process import Caps, start

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


async def test_memory_beyond_the_cap_ends_a_worker_when_it_has_answered(folder, batch_of, monkeypatch):
    """However fast it was: what it took it keeps."""
    monkeypatch.setattr(watch, "_BUSY_S", 10 * PATIENCE_S)
    monkeypatch.setattr(watch, "_IDLE_S", 10**9)
    load = folder.load(*DOUBLE, max_batch_size=2**24)
    worker = await start(load, CAPS)
    worker.caps = msgspec.structs.replace(CAPS, memory_bytes=worker.usage().resident_bytes + 2**23)
    batch = batch_of(load, [{"x": np.ones((2**22, 2), np.float32)}])
    assert (await batch.by(worker))[0]["y"].shape == (2**22, 2)
    clock = Clock()
    assert not worker.ended.done(), "nobody has looked yet"
    clock.forward(10 * PATIENCE_S)
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


async def test_memory_that_an_idle_worker_takes_ends_it(made):
    """An engine may have threads of its own."""
    _, worker = made
    clock = Clock()
    worker.caps = msgspec.structs.replace(CAPS, memory_bytes=2**20)
    clock.forward(2)
    assert "MiB, its cap is 1 MiB" in (await worker.ended).text


async def test_what_a_worker_has_in_the_arena_counts_once(made, batch_of):
    load, worker = made
    batch = batch_of(load, [{"x": np.ones((2**20, 2), np.float32)}])
    assert (await batch.by(worker))[0]["y"].shape == (2**20, 2)
    found = worker.usage()
    assert found.arena_bytes >= 2**23
    assert found.own_bytes + found.arena_bytes == found.charged_bytes
    assert found.own_bytes < found.resident_bytes, "it has touched the arena"
    worker.caps = msgspec.structs.replace(CAPS, memory_bytes=found.charged_bytes + 2**20)
    assert found.resident_bytes + found.arena_bytes > worker.caps.memory_bytes
    worker._hold_to_memory()
    assert worker.verdict is None
    worker.caps = msgspec.structs.replace(CAPS, memory_bytes=found.charged_bytes - 2**22)
    worker._hold_to_memory()
    assert worker.verdict.message.endswith(f"its cap is {worker.caps.memory_bytes // 2**20} MiB")


async def test_how_memory_is_held_is_said(made, folder):
    _, worker = made
    assert worker.bounds().startswith("memory 8192 MiB, watched (not started by the daemon); load 60 s")
    groups = Groups(None, "no delegated memory controller")
    other = await start(folder.load(*DOUBLE), CAPS, groups=groups)
    assert "watched (no delegated memory controller)" in other.bounds()
    await other.stop(PATIENCE_S)


async def test_a_worker_whose_group_cannot_be_made_is_watched(folder, tmp_path, batch_of):
    (tmp_path / "no-folder").write_text("")
    load = folder.load(*DOUBLE)
    worker = await start(load, CAPS, groups=Groups(tmp_path / "no-folder"))
    assert f"watched ({tmp_path}/no-folder/worker-" in worker.bounds()
    assert "Not a directory" in worker.bounds()
    worker.caps = msgspec.structs.replace(CAPS, memory_bytes=2**20)
    await batch_of(load, [{"x": np.ones((1, 2), np.float32)}]).by(worker)
    assert "its cap is 1 MiB" in (await worker.ended).text


async def test_a_worker_in_a_group_is_ended_by_it_and_not_watched(folder, tmp_path):
    """On a laid-out tree: what the kernel would do with it is another test's."""
    inner = cgroups.tree(tmp_path / "root")
    worker = await start(
        folder.load(*DOUBLE), msgspec.structs.replace(CAPS, memory_bytes=2**20), groups=Groups.find(tmp_path / "root")
    )
    (group,) = inner.glob("worker-*")
    assert (group / "cgroup.procs").read_text() == str(worker.pid)
    assert worker.bounds().startswith("memory 1 MiB, held by the kernel; load")
    worker._hold_to_memory()
    assert worker.verdict is None, "it takes more, and that is the kernel's to judge"
    (group / "memory.current").write_text(str(2**25))
    assert worker.usage().charged_bytes == 2**25
    (group / "memory.events").write_text("oom 1\noom_kill 1\n")
    worker.kill()
    assert (group / "cgroup.kill").read_text() == "1"
    told = "the kernel ended the worker, which had used up the memory of its cap of 1 MiB (killed by SIGKILL)"
    assert (await worker.ended).text == told
    assert worker.verdict.code is Code.WORKER_CRASHED


@pytest.mark.parametrize(("start_", "size", "end"), [(0, 11, 10), (5, 6, 10), (0, -1, 10), (11, 0, 10)])
def test_an_answer_that_does_not_fit_is_refused(start_, size, end):
    with pytest.raises(EdgedError, match="larger than what it came in"):
        placing._part(memoryview(bytes(20)), start_, size, end)


def test_an_answer_that_fits_is_taken():
    assert bytes(placing._part(memoryview(b"0123456789"), 2, 3, 5)) == b"234"
