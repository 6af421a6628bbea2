"""Workers as real processes: started, asked, timed, ended and reaped."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper
from support import descriptors
from support.descriptors import there
from support.loads import changed
from support.polling import PATIENCE_S

from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES
from edged.worker import child, templates
from edged.worker.child import Child, Exit
from edged.worker.messages import Failed, FileRef, Load, RunGolden, WarmupRun
from edged.worker.process import Caps, LostError, Worker, start
from edged.worker.usage import Usage

PATIENT = Caps(
    load_s=PATIENCE_S,
    first_inference_s=PATIENCE_S,
    inference_s=PATIENCE_S,
    memory_bytes=2**33,
    arena_bytes=2**26,
)

DOUBLE = ([helper.make_node("Add", ["x", "x"], ["y"])], [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])
FOREVER = 2**62


def looping() -> Any:
    """A model that counts to its input; from FOREVER it never comes back."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Add", ["state", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [
        helper.make_node("Constant", [], ["one"], value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1])),
        helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("zero", TensorProto.FLOAT, [1], [0])),
        helper.make_node("Loop", ["x", "", "zero"], ["y"], body=body),
    ]
    return nodes, [("x", "INT64", [])], [("y", "FP32", [1])]


def counting(batch_of: Any, load: Load, turns: int) -> Any:
    """A request to count to `turns`."""
    return batch_of(load, [{"x": np.array(turns, np.int64)}])


@asynccontextmanager
async def started(load: Load, caps: Caps = PATIENT) -> AsyncIterator[Worker]:
    worker = await start(load, caps)
    try:
        yield worker
    finally:
        worker.kill()
        await worker.ended


async def refusal(asked: Any) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        await asked
    return caught.value


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def environment(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def pidfds() -> int:
    return descriptors.count("[pidfd]")


# A life in order.


def test_a_worker_loads_answers_and_ends(run, folder, batch_of):
    async def test() -> None:
        load = folder.load(*DOUBLE, warmup=[WarmupRun(folder.npz("w.npz", {"x": np.float32([[1, 2]])}), 2)])
        worker = await start(load, PATIENT)
        assert worker.loaded.load_s > 0
        assert worker.loaded.warmup_s > 0
        for rows in ([1], [2, 3], [0]):
            members = [{"x": np.full((count, 2), count, np.float32)} for count in rows]
            batch = batch_of(load, members)
            answers = await batch.by(worker)
            assert [answer["y"].tolist() for answer in answers] == [(2 * member["x"]).tolist() for member in members]
        assert await worker.stop(PATIENCE_S) == Exit("exit status 0")
        assert worker.ended.result() == Exit("exit status 0")
        assert not there(worker.pid)

    run(test())


def test_large_tensors_pass(run, folder, batch_of):
    async def test() -> None:
        load = folder.load(*DOUBLE)
        async with started(load) as worker:
            array = np.arange(2**22, dtype=np.float32).reshape(-1, 2)
            batch = batch_of(load, [{"x": array}, {"x": -array}])
            first, second = await batch.by(worker)
            assert np.array_equal(first["y"], 2 * array)
            assert np.array_equal(second["y"], -2 * array)

    run(test())


def test_many_may_ask_at_the_same_time(run, folder, batch_of):
    async def test() -> None:
        load = folder.load(*DOUBLE)
        async with started(load) as worker:
            batches = [batch_of(load, [{"x": np.full((1, 2), number, np.float32)}]) for number in range(50)]
            found = await asyncio.gather(*(batch.by(worker) for batch in batches))
            for number, answer in enumerate(found):
                assert answer[0]["y"].tolist() == [[2.0 * number] * 2]

    run(test())


async def test_a_golden_is_run(folder):
    arrays = {"inputs/x": np.float32([[1, 2]]), "outputs/y": np.float32([[2, 4]])}
    async with started(folder.load(*DOUBLE)) as worker:
        compared = await worker.golden(RunGolden(folder.npz("g.npz", arrays), 0, 0))
        assert [(output.output, output.elements, output.outside) for output in compared.outputs] == [("y", 2, 0)]


async def test_what_was_wrong_with_a_request_does_not_end_a_worker(folder, batch_of):
    load = folder.load(*DOUBLE)
    async with started(load) as worker:
        batch = batch_of(load, [{"x": np.ones((1, 2), np.float32)}])
        damaged = batch_of(load, [{"x": np.ones((1, 2), np.float32)}]).damaged(0, shape=(2, 2))
        assert await damaged.by(worker) == [
            Failed(Code.INVALID_TENSOR, "input 'x' has 8 bytes; FP32 of shape [2, 2] takes 16", "")
        ]
        error = await refusal(worker.golden(RunGolden(FileRef("gone.npz", 1, ""), 0, 0)))
        assert error.code is Code.LOAD_FAILED
        assert (await batch.by(worker))[0]["y"].tolist() == [[2, 2]]


# Loading.


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        (
            {"runtime": "abacus"},
            Code.INCOMPATIBLE_RUNTIME,
            f"runtime 'abacus' does not exist here; there are: {', '.join(ENGINES)}",
        ),
        (
            {"device": "TPU"},
            Code.LOAD_FAILED,
            "device 'TPU' is not one that onnxruntime can use here; leave options.device out, or use CPU",
        ),
        (
            {"inputs": ()},
            Code.INCOMPATIBLE_SIGNATURE,
            "model.onnx is not what the manifest says: input 'x' of the model is not declared",
        ),
    ],
)
def test_a_load_that_fails_says_why_and_leaves_nothing(run, folder, changes, code, text):
    async def test() -> None:
        before = pidfds()
        error = await refusal(start(changed(folder.load(*DOUBLE), **changes), PATIENT))
        assert (error.code, str(error)) == (code, text)
        assert not psutil.Process().children()
        assert pidfds() == before

    run(test())


def test_a_load_that_takes_too_long_is_ended(run, folder):
    async def test() -> None:
        caps = msgspec.structs.replace(PATIENT, load_s=0.001, first_inference_s=0.001)
        error = await refusal(start(folder.load(*DOUBLE), caps))
        assert (error.code, error.message) == (Code.WORKER_HANG, "loading took longer than 0.002 s")
        assert error.hint == "see caps of the variant and [workers] of the settings"
        assert not psutil.Process().children()

    run(test())


async def test_a_worker_that_dies_while_it_loads_says_how(folder, monkeypatch):
    def killed(*arguments: Any) -> Child:
        made = child.spawn(*arguments)
        os.kill(made.pid, signal.SIGKILL)
        return made

    monkeypatch.setattr(templates, "spawn", killed)
    error = await refusal(start(folder.load(*DOUBLE), PATIENT))
    assert error.code is Code.WORKER_CRASHED
    assert error.message == "the worker ended while it was asked for loading: killed by SIGKILL"


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 50])
def test_a_load_that_is_given_up_leaves_nothing(run, folder, turns):
    async def test() -> None:
        before = pidfds()
        starting = asyncio.ensure_future(start(folder.load(*DOUBLE), PATIENT))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not psutil.Process().children()
        assert pidfds() == before

    run(test())


@pytest.mark.parametrize(
    ("place", "name", "problem"),
    [
        (sys, "executable", errno.ENOENT),
        (os, "posix_spawn", errno.EAGAIN),
        (os, "pidfd_open", errno.EMFILE),
    ],
)
def test_a_process_that_cannot_be_made_leaves_nothing(run, folder, monkeypatch, place, name, problem):
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(problem, os.strerror(problem))

    async def test() -> None:
        with pytest.raises(OSError, match=os.strerror(problem)):
            await start(folder.load(*DOUBLE), PATIENT)
        assert not psutil.Process().children()

    monkeypatch.setattr(place, name, "/nowhere/python" if name == "executable" else failing)
    run(test())


# Deaths.


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGUSR1, "killed by SIGUSR1"),
        (signal.SIGRTMIN + 3, f"killed by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_a_worker_that_is_killed_under_way_says_how(run, folder, batch_of, number, how):
    async def test() -> None:
        load = folder.load(*looping(), max_batch_size=0)
        worker = await start(load, PATIENT)
        batch = counting(batch_of, load, FOREVER)
        asked = [asyncio.ensure_future(batch.by(worker)) for _ in range(2)]
        await asyncio.sleep(0)  # both are sent
        os.kill(worker.pid, number)
        for each in asked:
            error = await refusal(each)
            assert error.code is Code.WORKER_CRASHED
            assert error.message == f"the worker ended while it was asked for an inference: {how}"
        assert (await worker.ended).text == how
        assert not there(worker.pid)
        assert (await worker.stop(PATIENCE_S)).text == how
        error = await refusal(batch.by(worker))
        assert (error.code, how in error.message) == (Code.WORKER_CRASHED, True)

    run(test())


async def test_one_workers_death_is_nothing_to_another(folder, batch_of):
    load = folder.load(*DOUBLE)
    async with started(load) as first, started(load) as second:
        first.kill()
        assert await first.ended == Exit("killed by SIGKILL")
        batch = batch_of(load, [{"x": np.ones((1, 2), np.float32)}])
        assert (await batch.by(second))[0]["y"].tolist() == [[2, 2]]


def test_a_model_that_never_comes_back_is_ended(run, folder, batch_of):
    async def test() -> None:
        load = folder.load(*looping(), max_batch_size=0)
        worker = await start(load, PATIENT)
        answer = counting(batch_of, load, 3)
        assert (await answer.by(worker))[0]["y"].tolist() == [3]
        worker.caps = msgspec.structs.replace(PATIENT, inference_s=0.5)
        batch = counting(batch_of, load, FOREVER)
        error = await refusal(batch.by(worker))
        assert (error.code, error.message) == (Code.WORKER_HANG, "an inference took longer than 0.5 s")
        assert await worker.ended == Exit("an inference took longer than 0.5 s (killed by SIGKILL)")
        assert not there(worker.pid)

    run(test())


@pytest.mark.parametrize("what", ["golden", "warm-up"])
async def test_a_first_inference_has_a_limit_of_its_own(folder, what):
    endless = np.array(FOREVER)
    golden = RunGolden(folder.npz("g.npz", {"inputs/x": endless, "outputs/y": np.zeros(1, np.float32)}), 0, 0)
    warmup = [WarmupRun(folder.npz("w.npz", {"x": endless}), 1)] if what == "warm-up" else []
    load = folder.load(*looping(), max_batch_size=0, warmup=warmup)
    if what == "warm-up":
        error = await refusal(start(load, msgspec.structs.replace(PATIENT, load_s=1.0, first_inference_s=0.5)))
        assert error.message == "loading took longer than 1.5 s"
    else:
        async with started(load, msgspec.structs.replace(PATIENT, first_inference_s=0.5)) as worker:
            error = await refusal(worker.golden(golden))
        assert error.message == "a golden took longer than 0.5 s"
    assert error.code is Code.WORKER_HANG


async def test_a_worker_that_stands_still_is_ended(folder, batch_of):
    """It does not even read."""
    load = folder.load(*DOUBLE)
    async with started(load, msgspec.structs.replace(PATIENT, inference_s=0.5)) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        batch = batch_of(load, [{"x": np.ones((2**20, 2), np.float32)}])
        error = await refusal(batch.by(worker))
        assert error.code is Code.WORKER_HANG


async def test_a_worker_that_does_not_go_in_time_is_killed(folder, batch_of):
    load = folder.load(*looping(), max_batch_size=0)
    worker = await start(load, PATIENT)
    batch = counting(batch_of, load, FOREVER)
    asked = asyncio.ensure_future(batch.by(worker))
    await asyncio.sleep(0)
    assert await worker.stop(0.05) == Exit("killed by SIGKILL")
    error = await refusal(asked)
    assert error.message == "the worker ended while it was asked for an inference: killed by SIGKILL"
    assert not there(worker.pid)


async def test_a_worker_that_even_a_kill_does_not_end_is_given_up(folder, monkeypatch):
    worker = await start(folder.load(*DOUBLE), PATIENT)
    monkeypatch.setattr(child, "REAP_S", 0.05)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)  # as if it hung in a driver
    os.kill(worker.pid, signal.SIGSTOP)
    worker.kill()
    assert await worker.ended == Exit("lost: still there 0.05 s after SIGKILL", lost=True)
    assert len(worker._arena.view) == PATIENT.arena_bytes, "it may still write there"
    assert not worker.gone.done()
    assert worker.usage().charged_bytes > 2**20, "what it holds stays charged"
    os.kill(worker.pid, signal.SIGKILL)
    await worker.gone
    assert not there(worker.pid)
    assert worker.usage() == Usage()


async def test_a_worker_that_neither_loads_nor_goes_is_handed_over(folder, monkeypatch):
    monkeypatch.setattr(child, "REAP_S", 0.05)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)  # as if it hung in a driver
    caps = msgspec.structs.replace(PATIENT, load_s=0.0005, first_inference_s=0.0005)
    error = await refusal(start(folder.load(*DOUBLE), caps))
    assert isinstance(error, LostError)
    assert (error.code, error.message) == (Code.WORKER_HANG, "loading took longer than 0.001 s")
    assert error.worker.ended.result().lost
    os.kill(error.worker.pid, signal.SIGKILL)
    await error.worker.gone


def test_ending_is_for_the_front_to_say(run, folder, batch_of, monkeypatch):
    """From its first instant on: a terminal or a service manager signals the front's whole group."""
    ignored = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def signalled(*arguments: Any) -> Child:
        made = child.spawn(*arguments)
        for number in ignored:
            os.kill(made.pid, number)
        return made

    async def test() -> None:
        load = folder.load(*DOUBLE)
        async with started(load) as worker:
            for number in ignored:
                os.kill(worker.pid, number)
            batch = batch_of(load, [{"x": np.ones((1, 2), np.float32)}])
            assert (await batch.by(worker))[0]["y"].tolist() == [[2, 2]]
            assert int(status(worker.pid)["SigBlk"], 16) == 0
            assert all(int(status(worker.pid)["SigIgn"], 16) >> number - 1 & 1 for number in ignored)

    monkeypatch.setattr(templates, "spawn", signalled)
    run(test())


FRONT = """
import asyncio, signal, socket, sys
import msgspec
from edged.worker import process, templates
from edged.worker.messages import Infer, Load

load, batch, body = msgspec.msgpack.decode(bytes.fromhex(sys.argv[1]), type=tuple[Load, Infer, bytes])

async def main():
    caps = process.Caps(600, 600, 600, 2**33, 2**20)
    worker = await process.start(load, caps)
    asked = process.Batch(batch.inputs, batch.outputs, batch.members, [[body]], (0,))
    asking = asyncio.ensure_future(worker.infer(asked, print)) if sys.argv[2] == "answering" else None
    await asyncio.sleep(0)
    print(worker.pid, flush=True)
    await asyncio.Event().wait()

async def starting():
    front, child = socket.socketpair()
    made, _ = await templates.spawned("onnxruntime", [child.fileno(), front.fileno()])
    print(made.pid, flush=True)
    signal.pause()

if sys.argv[2] == "starting":
    asyncio.run(starting())
asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["starting", "idle", "answering"])
def test_a_worker_does_not_outlive_its_front(folder, batch_of, when):
    load = folder.load(*looping(), max_batch_size=0)
    batch = counting(batch_of, load, FOREVER)
    told = msgspec.msgpack.encode((load, batch.message, bytes(batch.body))).hex()
    with subprocess.Popen([sys.executable, "-c", FRONT, told, when], stdout=subprocess.PIPE) as front:
        assert front.stdout is not None
        pidfd = os.pidfd_open(int(front.stdout.readline()))
        try:
            front.kill()
            assert select.select([pidfd], [], [], PATIENCE_S)[0], "the worker is still there"
        finally:
            os.close(pidfd)


def test_a_worker_whose_front_is_gone_already_does_not_begin():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.set_inheritable(True)
        done = subprocess.run(
            [sys.executable, "-I", "-m", "edged.worker.host", "1", str(theirs.fileno()), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            timeout=PATIENCE_S,
        )
    assert (done.returncode, done.stderr) == (1, b"the daemon is gone\n")


# What a worker has of its front.


SHARE = {
    "LD_LIBRARY_PATH": "/opt/lib",
    "CUDA_VISIBLE_DEVICES": "MIG-0",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


@pytest.mark.parametrize("passed", [{}, SHARE], ids=["nothing", "where its engine is, and its share of a card"])
async def test_a_worker_knows_nothing_else_of_its_fronts_environment(folder, monkeypatch, passed):
    monkeypatch.setenv("SECRET", "the key")
    monkeypatch.setenv("PYTHONPATH", "/tmp/elsewhere")
    for name in SHARE:
        monkeypatch.delenv(name, raising=False)
    for name, value in passed.items():
        monkeypatch.setenv(name, value)
    async with started(folder.load(*DOUBLE)) as worker:
        found = environment(worker.pid)
    assert found == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        **passed,
    }


async def test_a_worker_holds_nothing_of_its_fronts_but_the_link(folder):
    """Nor what the front itself was given at its start, which it passes on to every child."""
    one, other = socket.socketpair()
    reading, writing = os.pipe()
    file = os.open(folder.path / "secret", os.O_CREAT | os.O_RDWR)
    for descriptor in (one.fileno(), reading, writing, file):
        os.set_inheritable(descriptor, True)
    try:
        async with started(folder.load(*DOUBLE)) as first, started(folder.load(*DOUBLE)) as second:
            ours = descriptors.held()
            for worker in (first, second):
                theirs = descriptors.held(worker.pid)
                assert theirs.pop(0) == "/dev/null"
                assert theirs.pop(1) == theirs.pop(2) == ours[2]
                link, regions, arena = sorted(theirs.values(), reverse=True)
                for own in (link, regions):
                    assert own.startswith("socket:")
                    assert own not in ours.values()
                assert arena.startswith("/memfd:edged-arena")
            assert not set(descriptors.held(first.pid).values()) & set(descriptors.held(second.pid).values()) - {
                "/dev/null",
                "/memfd:edged-arena (deleted)",
                ours[2],
            }
    finally:
        one.close()
        other.close()
        for descriptor in (reading, writing, file):
            os.close(descriptor)


async def test_a_worker_runs_one_thread_where_one_is_asked_for(folder):
    """No telemetry, no spinning pool."""
    async with started(folder.load(*DOUBLE)) as worker:
        assert status(worker.pid)["Threads"] == "1"


async def test_a_workers_memory_is_told(folder, batch_of):
    load = folder.load(*DOUBLE)
    async with started(load) as worker:
        before = worker.usage()
        assert 2**20 < before.resident_bytes <= before.peak_bytes < psutil.virtual_memory().total
        assert before.resident_bytes == pytest.approx(psutil.Process(worker.pid).memory_info().rss, rel=0.2)
        batch = batch_of(load, [{"x": np.ones((2**22, 2), np.float32)}])
        await batch.by(worker)
        assert worker.usage().peak_bytes >= before.peak_bytes + 2**25
    assert worker.usage() == Usage()


async def test_whoever_has_its_id_later_is_not_taken_for_it(folder):
    async with started(folder.load(*DOUBLE)) as worker:
        pass
    worker.pid = os.getpid()
    assert worker.usage() == Usage()


def test_caps_are_told_in_words():
    caps = Caps(load_s=60, first_inference_s=30.5, inference_s=10, memory_bytes=200 * 2**20, arena_bytes=2**20)
    assert caps.describe("watched") == "memory 200 MiB, watched; load 60 s, first 30.5 s, then 10 s"
