"""A bad model hurts only itself: models that do their worst beside digits, whose callers must notice nothing."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from support.bundles import make_bundle
from support.calls import pack, refusal, request, tensor
from support.daemon import DIGITS, Daemon
from support.descriptors import held, there
from support.interpreter import hostile_interpreter

from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb

TRIGGER = 666.0
CAPS = "caps = { inference_s = 1.5, memory_mib = 400 }\n"


def hostile_bundle(folder: Path, does: str, name: str = "hostile") -> Path:
    """A model that doubles [-1, 2], and does something else when it meets TRIGGER."""
    tensors = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
    return make_bundle(
        folder / name, json.dumps({"does": does}).encode(), *tensors, name=name, extra=CAPS, runtime="hostile"
    )


def asked(value: float) -> pb.ModelInferRequest:
    return request("hostile", tensor("x", "FP32", [1, 2]), raw=[pack("FP32", [value, 1.0])])


def doubled(answer: pb.ModelInferResponse) -> list[float]:
    return list(struct.unpack("<2f", answer.raw_output_contents[0]))


def image(number: int) -> bytes:
    return struct.pack("<64f", *((number * 37 + place * 11) % 17 / 16 for place in range(64)))


class Callers:
    """Callers of digits, who know what they should be told."""

    def __init__(self, daemon: Daemon, count: int = 3) -> None:
        self._daemon = daemon
        self._right = [self._ask(number) for number in range(5)]
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._callers = [self._pool.submit(self._call) for _ in range(count)]

    def _ask(self, number: int) -> tuple[float, ...]:
        made = request("digits", tensor("image", "FP32", [1, 1, 8, 8]), raw=[image(number)])
        return struct.unpack("<10f", self._daemon.infer(made).raw_output_contents[0])

    def _call(self) -> int:
        answers = 0
        while not self._stop.is_set():
            number = answers % 5
            assert self._ask(number) == pytest.approx(self._right[number], abs=1e-3)
            answers += 1
        return answers

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._pool:
            for caller in self._callers:
                assert caller.result() > 0, "each was answered"


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_interpreter(tmp_path_factory.mktemp("interpreter"))


@pytest.fixture
def beside(request: pytest.FixtureRequest, tmp_path: Path, interpreter: Path) -> Iterator[Daemon]:
    """A daemon with digits and a model that does what the test's parameter says."""
    made = [DIGITS, hostile_bundle(tmp_path, request.param)]
    with Daemon(tmp_path / "root", made, "[workers]\nrestart_min_s = 0.05\n", interpreter) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        yield daemon
        everybody = psutil.Process(daemon.pid).children(recursive=True)
        assert daemon.stop() == 0
        assert not [process for process in everybody if there(process.pid)]


def worker(daemon: Daemon, model: str) -> admin_pb2.Worker | None:
    return next((each for each in daemon.status().workers if each.model == model), None)


def back(daemon: Daemon) -> admin_pb2.Worker:
    """The worker of the hostile model, when it is there again."""
    status = daemon.wait_for(lambda status: status.ready)
    (found,) = [each for each in status.workers if each.model == "hostile"]
    return found


def misbehaves(daemon: Daemon) -> tuple[str, str]:
    """Code and message of what a request with TRIGGER is told."""
    with pytest.raises(grpc.RpcError) as raised:
        daemon.infer(asked(TRIGGER))
    _, code, message = refusal(raised.value)
    return code, message


CRASHES = {
    "segfault": "killed by SIGSEGV",
    "abort": "killed by SIGABRT",
    "raise": "exit status 1",
    "sysexit": "exit status 1",
    "exit0": "exit status 0",
    "close": "exit status 1",
    "garbage": "exit status",
    "allocate": "its cap is 400 MiB",
}
HANGS = ["hang", "sleep", "stop"]


@pytest.mark.parametrize("beside", [*CRASHES, *HANGS], indirect=True, ids=str)
def test_a_model_that_takes_its_worker_along_costs_nobody_else(beside: Daemon, request: pytest.FixtureRequest) -> None:
    daemon, does = beside, request.node.callspec.params["beside"]
    code, how = ("worker_hang", "took longer than 1.5 s") if does in HANGS else ("worker_crashed", CRASHES[does])
    digits = worker(daemon, "digits")
    descriptors = len(held(daemon.pid))
    with Callers(daemon):
        for _ in range(2):
            before = worker(daemon, "hostile")
            assert doubled(daemon.infer(asked(2.5))) == [5.0, 2.0]
            told, message = misbehaves(daemon)
            assert (told, how in message) == (code, True), message
            assert "model 'hostile', revision 1" in message
            after = back(daemon)
            assert after.pid != before.pid
            assert how in after.last_exit
            assert not there(before.pid)
    assert worker(daemon, "digits").pid == digits.pid
    assert (worker(daemon, "digits").restarts, worker(daemon, "digits").last_exit) == (0, "")
    blamed = {event.subject for event in daemon.events("worker_crashed", "worker_hang")}
    assert blamed == {"hostile"}
    assert len(held(daemon.pid)) <= descriptors + 2, "the callers' connection at most"


@pytest.mark.parametrize("beside", ["print", "fork", "shape"], indirect=True)
def test_a_model_that_misbehaves_and_lives_costs_nobody_else(beside: Daemon, request: pytest.FixtureRequest) -> None:
    daemon, does = beside, request.node.callspec.params["beside"]
    before = worker(daemon, "hostile")
    with Callers(daemon):
        for _ in range(3):
            if does == "shape":
                code, message = misbehaves(daemon)
                assert code == "inference_failed"
                assert "output 'y' came with shape [1, 4], declared is [1, 2]" in message
            else:
                assert doubled(daemon.infer(asked(TRIGGER))) == [TRIGGER * 2, 2.0]
            assert doubled(daemon.infer(asked(2.5))) == [5.0, 2.0]
    assert worker(daemon, "hostile").pid == before.pid
    assert daemon.status().ready


@pytest.mark.parametrize("beside", ["fork"], indirect=True)
def test_what_a_model_forked_goes_with_its_worker(beside: Daemon) -> None:
    daemon = beside
    known = {process.pid for process in psutil.Process(daemon.pid).children(recursive=True)}
    assert doubled(daemon.infer(asked(TRIGGER))) == [TRIGGER * 2, 2.0]
    strays = {process.pid for process in psutil.Process(daemon.pid).children(recursive=True)} - known
    assert 1 <= len(strays) <= 2, "one of them is on its own, and may have been found already"
    psutil.Process(worker(daemon, "hostile").pid).kill()
    daemon.wait_for(lambda status: any(each.last_exit for each in status.workers) and status.ready)
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in strays if psutil.pid_exists(pid)], timeout=60)
    assert not alive


@pytest.mark.parametrize("beside", ["abort"], indirect=True)
def test_a_poison_request_fails_alone_among_good_ones(beside: Daemon) -> None:
    """Sent at the same time, so that they share batches with it."""
    daemon = beside
    with Callers(daemon, 1), ThreadPoolExecutor(12) as pool:
        for turn in range(4):
            barrier = threading.Barrier(12)

            def ask(number: int, barrier: threading.Barrier = barrier, turn: int = turn) -> list[float] | str:
                barrier.wait()
                try:
                    return doubled(daemon.infer(asked(TRIGGER if number == turn else float(number))))
                except grpc.RpcError as error:
                    return refusal(error).code

            found = list(pool.map(ask, range(12)))
            for number, answer in enumerate(found):
                assert answer == ("worker_crashed" if number == turn else [number * 2.0, 2.0]), found
        status = back(daemon)
    assert status.restarts >= 8, "it killed two workers each time"
    assert daemon.status().ready
