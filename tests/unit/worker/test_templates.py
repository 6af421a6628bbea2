"""Warm templates as real processes: what they fork, what outlives them, and what is done where they cannot."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import helper
from support.descriptors import count, held, there
from support.hostile_engine import TRIGGER
from support.interpreter import hostile_interpreter
from support.loads import changed
from support.polling import PATIENCE_S, until_async

from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.runtimes.base import ENGINES, Engine
from edged.worker import process, templates
from edged.worker.child import Exit
from edged.worker.process import Caps, Worker
from edged.worker.templates import Templates

CAPS = Caps(PATIENCE_S, PATIENCE_S, PATIENCE_S, 2**33, 2**24)
DOUBLE = ([helper.make_node("Add", ["x", "x"], ["y"])], [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])


class Bench:
    """Templates, and what they recorded."""

    def __init__(self) -> None:
        self.events = EventLog(100)
        self.templates = Templates(self.events)
        self.workers: list[Worker] = []

    async def start(self, load, caps: Caps = CAPS) -> Worker:
        worker = await process.start(load, caps, self.templates.make)
        self.workers.append(worker)
        return worker

    def template(self, engine: str = "onnxruntime") -> int:
        """The process of an engine's template."""
        return self.templates._warm[engine].child.pid

    def failures(self) -> list[str]:
        return [event.message for event in self.events.after(0) if event.code == "template_failed"]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


async def until_children(known: set[int]) -> None:
    await until_async(children, f"the children are {known}", holds=lambda found: found == known)


@asynccontextmanager
async def benched() -> AsyncIterator[Bench]:
    bench = Bench()
    try:
        yield bench
    finally:
        for worker in bench.workers:
            worker.kill()
            await worker.ended
        await bench.templates.stop()
        await until_children(set())
        ctypes.CDLL(None).prctl(36, 0)


@pytest.fixture
async def bench():
    async with benched() as made:
        yield made


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Workers and templates run in an interpreter that has the engines of `hostile_site`."""
    monkeypatch.setattr(sys, "executable", str(hostile_interpreter(tmp_path / "venv")))
    for name in ("hostile", "threaded", "absent"):
        monkeypatch.setitem(ENGINES, name, Engine(name, f"support.{name}_engine", ("msgspec",), "none", {}))


def oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def hostile(folder, does: str, runtime: str = "hostile"):
    """Has a worker load a model of the engine that misbehaves."""
    load = folder.load(*DOUBLE)
    file = folder.file("model.json", json.dumps({"does": does}).encode())
    return changed(load, runtime=runtime, file=file)


async def doubles(worker: Worker, batch_of, load, value: float = 1.5) -> None:
    """It answers, and rightly."""
    batch = batch_of(load, [{"x": np.full((1, 2), value, np.float32)}])
    assert (await batch.by(worker))[0]["y"].tolist() == [[2 * value] * 2]


def test_a_worker_is_the_daemons_own_child(run, folder, batch_of):
    async def test() -> None:
        async with benched() as bench:
            load = folder.load(*DOUBLE)
            worker = await bench.start(load)
            assert worker.made == "forked"
            assert psutil.Process(worker.pid).ppid() == os.getpid() == psutil.Process(bench.template()).ppid()
            await doubles(worker, batch_of, load)
            assert await worker.stop(PATIENCE_S) == Exit("exit status 0")
            assert not there(worker.pid)
            killed = await bench.start(load)
            os.kill(killed.pid, signal.SIGUSR1)
            assert await killed.ended == Exit("killed by SIGUSR1")
            assert bench.failures() == []

    run(test())


async def test_one_template_serves_all_workers_of_an_engine(bench, folder):
    load = folder.load(*DOUBLE)
    first = await bench.start(load)
    template = bench.template()
    others = await asyncio.gather(*(bench.start(load) for _ in range(5)))
    assert bench.template() == template
    assert {worker.made for worker in (first, *others)} == {"forked"}
    assert len({worker.pid for worker in (first, *others)}) == 6


async def test_a_worker_has_nothing_of_its_template(bench, folder):
    worker = await bench.start(folder.load(*DOUBLE))
    others = {target for number, target in held(worker.pid).items() if number > 2}
    assert len(others) == 3
    assert sum(target.startswith("socket:") for target in others) == 2
    assert any("edged-arena" in target for target in others)
    assert not others & {target for number, target in held(bench.template()).items() if number > 2}
    assert count("edged-arena", bench.template()) == 0
    assert oom_score_adj(worker.pid) == 500


async def test_the_death_of_a_template_touches_no_worker_and_the_next_comes_from_a_new_one(bench, folder, batch_of):
    load = folder.load(*DOUBLE)
    before = [await bench.start(load) for _ in range(2)]
    template = bench.template()
    os.kill(template, signal.SIGKILL)
    after = await bench.start(load)  # even where nobody has noticed yet
    assert after.made == "forked"
    assert bench.template() != template
    await until_async(lambda: not there(template), "the template has gone")
    for worker in (*before, after):
        await doubles(worker, batch_of, load)
    os.kill(bench.template(), signal.SIGKILL)
    await until_async(bench.templates._warm["onnxruntime"].child.ended.done, "its end is noticed")
    assert (await bench.start(load)).made == "forked"
    assert bench.failures() == []


async def test_a_template_that_stands_still_is_replaced_by_a_spawn_and_says_so(bench, folder, batch_of, monkeypatch):
    monkeypatch.setattr("edged.worker.templates._FORK_S", 0.05)
    load = folder.load(*DOUBLE)
    await bench.start(load)
    template = bench.template()
    os.kill(template, signal.SIGSTOP)
    worker = await bench.start(load)
    assert worker.made == "spawned: the template of onnxruntime failed (TimeoutError)"
    assert bench.failures() == [worker.made]
    await until_async(lambda: not there(template), "the template has gone")
    await doubles(worker, batch_of, load)
    monkeypatch.undo()
    assert (await bench.start(load)).made == "forked"


async def test_signals_are_for_the_daemon_to_give(bench, folder):
    load = folder.load(*DOUBLE)
    worker = await bench.start(load)
    template = bench.template()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(template, number)
        os.kill(worker.pid, number)
    assert (await bench.start(load)).made == "forked"
    assert bench.template() == template
    assert not worker.ended.done()


@pytest.mark.usefixtures("interpreter")
async def test_an_engine_that_starts_a_thread_is_spawned_and_an_event_says_so(bench, folder, batch_of):
    load = hostile(folder, "abort", "threaded")
    worker = await bench.start(load)
    assert worker.made == "spawned: the template of threaded does not fork (threads 2)"
    assert bench.failures() == [worker.made]
    assert "threaded" not in bench.templates._warm, "it is of no use"
    await doubles(worker, batch_of, load)
    again = await bench.start(load)
    assert again.made == worker.made
    assert len(bench.failures()) == 1, "said once"


@pytest.mark.usefixtures("interpreter")
async def test_an_engine_that_cannot_be_imported_is_told_as_by_a_worker(bench, folder):
    with pytest.raises(EdgedError) as caught:
        await bench.start(hostile(folder, "abort", "absent"))
    assert caught.value.code is Code.INCOMPATIBLE_RUNTIME
    assert "runtime 'absent' cannot be imported" in caught.value.message
    (told,) = bench.failures()
    assert told.startswith("spawned: the template of absent failed (the template of absent ended: failed runtime")
    assert not psutil.Process().children()


@pytest.mark.usefixtures("interpreter")
async def test_what_a_worker_left_behind_goes_with_it(bench, folder, batch_of):
    load = hostile(folder, "fork")
    worker = await bench.start(load)
    other = await bench.start(load)
    await doubles(worker, batch_of, load, TRIGGER)
    strays = {child.pid for child in psutil.Process().children(recursive=True)}
    strays -= {worker.pid, other.pid, bench.template("hostile")}
    assert strays
    worker.kill()
    await worker.ended
    await until_async(lambda: list(filter(there, strays)), "the strays have gone", holds=lambda left: not left)
    await doubles(other, batch_of, load)
    assert there(bench.template("hostile"))


@pytest.mark.usefixtures("interpreter")
async def test_what_leaves_a_worker_that_lives_on_is_ended(bench, folder, batch_of, monkeypatch):
    monkeypatch.setattr(templates, "_SWEEP_S", 0.01)
    load = hostile(folder, "fork")
    worker = await bench.start(load)
    await doubles(worker, batch_of, load, TRIGGER)
    known = {worker.pid, bench.template("hostile")}
    await until_children(known)
    await doubles(worker, batch_of, load)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 20, 200])
async def test_a_worker_that_is_not_wanted_any_more_while_it_is_made_leaves_nothing(bench, folder, batch_of, turns):
    load = folder.load(*DOUBLE)
    for warm in (False, True):
        making = asyncio.ensure_future(bench.start(load))
        for _ in range(turns):
            await asyncio.sleep(0)
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making
        if not warm:
            await doubles(await bench.start(load), batch_of, load)
    await doubles(await bench.start(load), batch_of, load)
    known = {worker.pid for worker in bench.workers} | {bench.template()}
    await until_async(children, "nobody else is there", holds=lambda found: found <= known)


async def test_a_worker_given_up_while_its_template_warms_up_leaves_nothing(bench, folder):
    making = asyncio.ensure_future(bench.start(folder.load(*DOUBLE)))
    await until_async(children, "it is started")
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    await until_children(set())


async def test_a_worker_given_up_while_its_template_forks_costs_the_template(bench, folder, batch_of):
    """Its answer would otherwise be taken for that to the next."""
    load = folder.load(*DOUBLE)
    await bench.start(load)
    template = bench.template()
    os.kill(template, signal.SIGSTOP)
    making = asyncio.ensure_future(bench.start(load))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not making.done()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert not there(template)
    worker = await bench.start(load)
    await doubles(worker, batch_of, load)
    assert worker.made == "forked"


async def test_fifty_forks_leave_no_descriptor(bench, folder):
    load = folder.load(*DOUBLE)
    await (await bench.start(load)).stop(PATIENCE_S)
    ours, theirs = sorted(held().values()), sorted(held(bench.template()).values())
    for _ in range(50):
        worker = await bench.start(load)
        assert (await worker.stop(PATIENCE_S)).text == "exit status 0"
    assert sorted(held().values()) == ours
    assert sorted(held(bench.template()).values()) == theirs
    assert len(psutil.Process().children()) == 1


async def test_stop_ends_the_templates_and_no_worker(bench, folder, batch_of):
    load = folder.load(*DOUBLE)
    worker = await bench.start(load)
    template = bench.template()
    await bench.templates.stop()
    assert not there(template)
    await doubles(worker, batch_of, load)
