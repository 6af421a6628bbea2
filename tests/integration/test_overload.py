"""More than can be answered: what is refused, who is spared, and what a flood costs those who share the daemon."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support import convnets
from support.daemon import DIGITS, REPO, Daemon

from edged._pb.inference import grpc_service_pb2 as pb

QUEUE_REQUESTS = 32


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    settings = f"[serving]\nqueue_requests = {QUEUE_REQUESTS}\n"
    with Daemon(tmp_path / "root", [convnets.convnet_bundle(tmp_path), DIGITS], settings) as daemon:
        yield daemon.start()


class Flood:
    """Asks for the convnet at ten times what one caller after the other gets, in a process of its own."""

    def __init__(self, daemon: Daemon, folder: Path, seconds: float) -> None:
        took_s = []
        for _ in range(10):
            began = time.monotonic()
            daemon.infer(convnets.image())
            took_s.append(time.monotonic() - began)
        self.took_s = min(took_s)
        request = folder / "request"
        request.write_bytes(convnets.image().SerializeToString())
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.programs.open_loop", f"unix:{daemon.socket}"),
                *("/inference.GRPCInferenceService/ModelInfer", str(request)),
                *(str(10 / self.took_s), str(seconds), "0", ""),
            ],
            cwd=REPO,
            stdout=subprocess.PIPE,
        )

    @property
    def on(self) -> bool:
        """Whether it goes on."""
        return self._process.poll() is None

    def end(self) -> None:
        """Ends it, should it go on."""
        self._process.kill()
        self._process.wait()

    def seen(self) -> dict[str, object]:
        """How its requests ended, once all have."""
        told, _ = self._process.communicate()
        return json.loads(told)


class Pauses:
    """When this machine ran nothing: a thread that is to wake all the time notes when it was not let."""

    STEP_S = 0.02

    def __init__(self) -> None:
        self._found: list[tuple[float, float]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Pauses:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._end.wait(self.STEP_S):
            now = time.monotonic()
            if now - last > 5 * self.STEP_S:
                self._found.append((last, now))
            last = now

    def within(self, start: float, end: float) -> float:
        """The seconds between two times of the monotonic clock in which nothing ran."""
        self._end.wait(2 * self.STEP_S)  # one that lasts until now is noted when it is over
        return sum(max(min(end, to) - max(start, since), 0.0) for since, to in self._found)

    @property
    def longest_s(self) -> list[float]:
        """The longest of them."""
        return sorted((to - since for since, to in self._found), reverse=True)[:5]


def convnet(daemon: Daemon) -> object:
    return next(model for model in daemon.status().models if model.name == convnets.NAME)


@pytest.mark.parametrize("seconds", [pytest.param(4, id="4s"), pytest.param(600, id="600s", marks=pytest.mark.slow)])
def test_under_a_flood_of_ten_times_what_can_be_answered_priority_one_meets_its_deadlines(
    own, tmp_path, seconds, request
):
    flood = Flood(own, tmp_path, seconds)
    request.addfinalizer(flood.end)
    # A batch that is being executed, and one's own, each of at most 8 rows; and time to be heard at all.
    deadline_s = 20 * flood.took_s + 2.0
    most = 0
    took_s, missed = [], []
    with Pauses() as pauses:
        while flood.on:
            asked = time.monotonic()
            try:
                reply = own.infer(convnets.image(priority=1), timeout_s=deadline_s)
            except grpc.RpcError as error:
                ended = time.monotonic()
                late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                if not late or pauses.within(asked, ended) < (ended - asked) / 2:
                    missed.append(f"{error.code()} after {ended - asked:.3f} s: {error.details()}")
            else:
                assert reply.outputs[0].shape == [1, convnets.CLASSES]
                took_s.append(time.monotonic() - asked)
            most = max(most, convnet(own).queued)
    seen = flood.seen()
    print(seen, len(took_s), sorted(took_s)[-10:], deadline_s, pauses.longest_s)  # noqa: T201
    assert not missed, f"{len(missed)} of {len(took_s) + len(missed)} were late, {missed[:5]}"
    assert took_s
    assert (seen["failed"], seen["problem"]) == (0, ""), "whoever is not answered is refused, and nothing else"
    assert seen["refused"] > seen["answered"] > 0
    assert most <= QUEUE_REQUESTS
    after = convnet(own)
    assert (after.queued, after.executing, after.requests_failed) == (0, 0, 0)


def test_a_refusal_says_when_to_try_again(own):
    ask = own.channel().unary_unary("/inference.GRPCInferenceService/ModelInfer")
    calls = [ask.future(convnets.image().SerializeToString()) for _ in range(QUEUE_REQUESTS + 100)]
    refusals = [error for call in calls if (error := call.exception()) is not None]
    assert refusals
    for refusal in refusals:
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(refusal.trailing_metadata()) == {"edged-code": "overloaded", "grpc-retry-pushback-ms": "100"}


def test_one_that_opens_a_thousand_streams_and_stops_reading_costs_the_others_nothing(own):

    request = pb.ModelInferRequest(model_name="digits")
    request.inputs.add(name="image", datatype="FP32", shape=(1, 1, 8, 8))
    request.raw_input_contents.append(bytes(256))
    channel = own.channel(options=[("grpc.use_local_subchannel_pool", 1)])  # a connection of its own
    once = [request.SerializeToString()]
    method = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    streams = [method(iter(once * 4)) for _ in range(1000)]
    try:
        for _ in range(20):
            assert own.infer(request, timeout_s=30).outputs
    finally:
        for stream in streams:
            stream.cancel()
    own.wait_for(lambda status: all(not model.executing and not model.queued for model in status.models))
    assert own.infer(request).outputs


def test_a_connection_has_so_many_calls_at_once_and_the_rest_wait_at_its_end(own):
    """1,000 calls at once on one connection are all answered, or refused by the queue; never by the server's bound."""
    ask = own.channel().unary_unary("/inference.GRPCInferenceService/ModelInfer")
    calls = [ask.future(convnets.image().SerializeToString()) for _ in range(1000)]
    errors = [error for call in calls if (error := call.exception()) is not None]
    assert all(dict(error.trailing_metadata()).get("edged-code") == "overloaded" for error in errors)
    assert len(errors) < len(calls)
