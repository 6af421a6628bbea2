"""Frames of full-HD colour through the daemon, given up at random: no slot leaks, none is reused too early."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from onnx import TensorProto, helper
from support.bundles import make_bundle, onnx_model
from support.calls import refusal, request, tensor
from support.daemon import PATIENCE_S, Daemon
from support.descriptors import held

from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb

FRAME = [1, 1080, 1920, 3]
FRAME_BYTES = 1080 * 1920 * 3
CALLERS = 6
ROUNDS = 15

# What a caller that gives up is told, and one whose deadline passes before or after its request has come in.
# One that could not begin in time is told at once.
GIVEN_UP = {"StatusCode.CANCELLED", "StatusCode.DEADLINE_EXCEEDED", "deadline_exceeded", "overloaded"}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with a model that gives back its frames, two at a time at most, after some work on them."""
    frame = [("frame", "UINT8", [-1, *FRAME[1:]])], [("same", "UINT8", [-1, *FRAME[1:]])]
    # Through memory again and again, as numbers that this leaves as they are: longer than some callers' patience.
    nodes = [
        helper.make_node("Cast", ["frame"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Floor", ["whole"], ["down"]),
        helper.make_node("Ceil", ["down"], ["up"]),
        helper.make_node("Cast", ["up"], ["same"], to=TensorProto.UINT8),
    ]
    model = onnx_model(nodes, *frame)
    made = make_bundle(tmp_path / "frames", model, *frame, name="frames", max_batch_size=2)
    with Daemon(tmp_path / "root", [made], "workers.arena_mib = 40\n") as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        yield daemon
        assert daemon.stop() == 0


class Caller:
    """Sends frames of a colour of its own; takes some back, and some only until a moment that it chooses at random."""

    def __init__(self, daemon: Daemon, number: int, seed: int) -> None:
        self._chance = random.Random(seed + number)
        self._color = number
        self.channel = daemon.channel(options=[("grpc.use_local_subchannel_pool", 1)])
        self._infer = self.channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        self.told: Counter[str] = Counter()

    def call(self) -> None:
        """One frame of a colour that nobody else sends at this time."""
        self._color = (self._color + CALLERS) % 256
        sent = bytes([self._color]) * FRAME_BYTES
        asked = request("frames", tensor("frame", "UINT8", FRAME), raw=[sent])
        patience_s = self._chance.choice([None, 0.002, 0.01, 0.03, 0.06, 0.12])
        by_deadline = self._chance.random() < 0.5
        call = self._infer.future(asked, timeout=patience_s if patience_s and by_deadline else PATIENCE_S)
        timer = threading.Timer(patience_s or 0, call.cancel) if patience_s and not by_deadline else None
        if timer:
            timer.start()
        try:
            answer = call.result()
            assert answer.raw_output_contents[0] == sent, "another's frame, or one half overwritten"
            self.told["answered"] += 1
        except grpc.FutureCancelledError:
            self.told["StatusCode.CANCELLED"] += 1
        except grpc.RpcError as error:
            self.told[refusal(error).code or str(error.code())] += 1
        finally:
            if timer:
                timer.cancel()
                timer.join()


def storm(daemon: Daemon, seed: int) -> Counter[str]:
    """Callers at once, until each has sent all its frames."""
    callers = [Caller(daemon, number, seed) for number in range(CALLERS)]

    def all_of(caller: Caller) -> None:
        for _ in range(ROUNDS):
            caller.call()

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(all_of, callers))
    for caller in callers:
        caller.channel.close()
    return sum((caller.told for caller in callers), Counter())


def quiet(daemon: Daemon) -> admin_pb2.Worker:
    """The worker, once nothing is under way any more."""
    stop = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        status = daemon.status()
        if not any(model.queued + model.executing for model in status.models):
            return status.workers[0]
        stop.wait(0.01)
    raise AssertionError(f"requests never come to an end:\n{daemon.status()}")


def test_frames_given_up_at_random_leak_no_slot_and_reuse_none_too_early(target: Daemon) -> None:
    daemon, seed = target, random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    front = psutil.Process(daemon.pid)
    first = storm(daemon, seed)  # buffers grow to their size
    before = quiet(daemon)
    descriptors, resident = len(held(daemon.pid)), front.memory_info().rss
    told = first + storm(daemon, seed + 1000) + storm(daemon, seed + 2000)
    after = quiet(daemon)
    print(dict(told), resident, front.memory_info().rss)  # noqa: T201
    assert set(told) == {"answered"} | (set(told) & GIVEN_UP), told
    assert told["answered"] > CALLERS * 3
    given_up = told.total() - told["answered"]
    assert given_up > 50, told
    assert (before.arena_held_bytes, after.arena_held_bytes) == (0, 0)
    assert (after.pid, after.restarts) == (before.pid, 0)
    assert len(held(daemon.pid)) <= descriptors + 2 * CALLERS, "connections of callers at most"
    # What grpc and the allocator keep goes up and down by some frames; what leaks does not come down.
    assert front.memory_info().rss - resident < given_up / 8 * FRAME_BYTES
