"""Malformed requests by the thousand against a running daemon, which meanwhile answers everybody else, and rightly.

Messages follow from one seed: `EDGED_FUZZ_SEED=… pytest tests/integration/test_fuzz.py` sends the same again.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random, SystemRandom

import grpc
import pytest
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from support import mutations
from support.calls import ELEMENTS, FORMATS, TYPED, identity, pack, request, tensor
from support.daemon import PATIENCE_S, Daemon

from edged._pb.inference import grpc_service_pb2 as pb

INFER = "inference.GRPCInferenceService/ModelInfer"

# Requests under way at a time: enough that they share batches, too few to be turned away.
UNDER_WAY = 48
TOGETHER = 40

# How a message may be answered. Neither INTERNAL nor UNKNOWN: nothing that comes from outside is a defect of edged; not
# UNAVAILABLE: no message ends a worker.
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # a timeout so short that there is no hope
}

# What mutation has to reach, lest this test find nothing because it tries nothing.
REACHED = {
    "malformed_request",
    "invalid_tensor",
    "invalid_argument",
    "unsupported",
    "model_not_found",
    "revision_not_found",
    "revision_not_served",
}


def sound_requests() -> list[pb.ModelInferRequest]:
    """A request for each datatype in each form, and others."""
    found = []
    for datatype, values in ELEMENTS.items():
        raw = request(identity(datatype), tensor("x", datatype, [2, 2]), raw=[pack(datatype, values)], id=datatype)
        found.append(raw)
        if datatype in TYPED:
            contents = {TYPED[datatype][0]: values}
            found.append(request(identity(datatype), tensor("x", datatype, [1, 4], **contents), outputs=["y"]))
    row = pack("FP32", [1.0, 2.0, 3.0])
    pair = tensor("a", "FP32", [1, 3]), tensor("b", "FP32", [1, 3])
    found += [
        request("sums", *pair, raw=[row, row], outputs=["difference", "sum"]),
        request("sums", *reversed(pair), raw=[row, row], model_version="1"),
        request("unbatched", tensor("x", "FP32", [1, 1, 3]), raw=[row]),
        request("digits", tensor("image", "FP32", [1, 1, 8, 8]), raw=[bytes(256)]),
    ]
    return found


# Every unary call of the public services but ModelInfer, with sound messages.
OTHER_CALLS = {
    "inference.GRPCInferenceService/ServerLive": [pb.ServerLiveRequest()],
    "inference.GRPCInferenceService/ServerReady": [pb.ServerReadyRequest()],
    "inference.GRPCInferenceService/ServerMetadata": [pb.ServerMetadataRequest()],
    "inference.GRPCInferenceService/ModelReady": [pb.ModelReadyRequest(name="sums", version="1")],
    "inference.GRPCInferenceService/ModelMetadata": [pb.ModelMetadataRequest(name="sums", version="1")],
    "grpc.health.v1.Health/Check": [
        health_pb2.HealthCheckRequest(),
        health_pb2.HealthCheckRequest(service="sums"),
        health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"),
    ],
}


def messages(random: Random) -> Iterator[tuple[str, bytes]]:
    """Calls and mutated messages without end."""
    sound = sound_requests()
    others = [(method, message.SerializeToString()) for method, each in OTHER_CALLS.items() for message in each]
    while True:
        other = random.choice(sound)
        if random.random() < 0.1:
            method, data = random.choice(others)
        else:
            method = INFER
            message = pb.ModelInferRequest()
            message.CopyFrom(random.choice(sound))
            for _ in range(random.randint(0, 2)):
                mutations.mutate_message(random, message, other)
            data = message.SerializeToString()
        for _ in range(random.choice((0, 0, 1, 1, 1, 2, 4)) if method == INFER else random.randint(1, 4)):
            data = mutations.mutate_bytes(random, data, other.SerializeToString())
        yield method, data


def given(message: pb.ModelInferRequest, at: int) -> list[object]:
    """The elements of an input, as protobuf sees them."""
    each = message.inputs[at]
    if message.raw_input_contents:
        return unpack(each.datatype, message.raw_input_contents[at])
    filled = [list(values) for _, values in each.contents.ListFields()]
    return filled[0] if filled else []


def unpack(datatype: str, data: bytes) -> list[object]:
    if datatype == "BYTES":
        found: list[object] = []
        at = 0
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            found.append(data[at + 4 : end])
            at = end
        return found
    count = len(data) // struct.calcsize(FORMATS[datatype])
    return list(struct.unpack(f"<{count}{FORMATS[datatype]}", data))


def same(left: object, right: object) -> bool:
    return left == right or (
        isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right)
    )


def assert_classes(datatype: str, shape: list[int], found: list[object], values: list[object]) -> None:
    """Each class names an element of its own row."""
    rows, count = shape
    size = len(values) // rows if rows else 0
    for place, text in enumerate(found):
        assert isinstance(text, bytes)
        value, index = text.decode().split(":")
        element = values[place // count * size + int(index)]
        assert int(index) < size
        if datatype not in ("FP16", "BF16"):  # these are unpacked as their bits
            assert value == (f"{element:f}" if isinstance(element, float) else str(element))


def assert_answers(data: bytes, answer: pb.ModelInferResponse) -> None:
    """What was answered belongs to what was asked: an answer is made of the request's own tensors."""
    try:
        asked = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        pytest.fail(f"answered, and protobuf cannot even read it: {data.hex()}")
    assert (answer.model_name, answer.id) == (asked.model_name, asked.id)
    wanted = [each.name for each in asked.outputs]
    assert not wanted or [each.name for each in answer.outputs] == wanted
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if output.name == "y":
            values = given(asked, 0)
            found = unpack(output.datatype, raw)
            if output.datatype != asked.inputs[0].datatype:
                assert_classes(asked.inputs[0].datatype, list(output.shape), found, values)
                continue
            assert len(found) == len(values)
            assert all(map(same, found, values)), f"{found} for {values}"


class Unique:
    """Sound requests, no two alike, from a thread of their own: each must be answered with its own data."""

    def __init__(self, daemon: Daemon, call: grpc.UnaryUnaryMultiCallable) -> None:
        self._call = call
        self._stop = threading.Event()
        self._daemon = daemon
        self.answered = 0

    def _request(self, number: int) -> tuple[pb.ModelInferRequest, list[bytes]]:
        mine = [float(number), number + 0.25, -float(number)]
        row = pack("FP32", mine)
        texts = pack("BYTES", [f"{number}".encode(), b"", f"grüße {number}".encode()])
        sums = [pack("FP32", [2 * value for value in mine]), bytes(12)]
        return (
            (request("identity-fp32", tensor("x", "FP32", [1, 3]), raw=[row]), [row]),
            (request("identity-bytes", tensor("x", "BYTES", [1, 3]), raw=[texts]), [texts]),
            (
                request("identity-int64", tensor("x", "INT64", [1, 2], int64_contents=[number, -number])),
                [pack("INT64", [number, -number])],
            ),
            (request("sums", tensor("a", "FP32", [1, 3]), tensor("b", "FP32", [1, 3]), raw=[row, row]), sums),
            (request("unbatched", tensor("x", "FP32", [1, 3, 1]), raw=[row]), [row]),
        )[number % 5]

    def run(self) -> None:
        """Asks until told to stop, some at a time, so that those of one model share batches."""
        for first in itertools.count(1, TOGETHER):
            if self._stop.is_set():
                return
            numbers = range(first, first + TOGETHER)
            asked = [self._request(number) for number in numbers]
            for number, (each, _) in zip(numbers, asked, strict=True):
                each.id = str(number)
            calls = [self._call.future(each.SerializeToString(), timeout=PATIENCE_S) for each, _ in asked]
            for (each, wanted), call in zip(asked, calls, strict=True):
                answer = pb.ModelInferResponse.FromString(call.result())
                assert answer.id == each.id
                assert list(answer.raw_output_contents) == wanted
                self.answered += 1

    def stop(self) -> None:
        """Lets `run` come to its end."""
        self._stop.set()


def fuzz(daemon: Daemon, count: int, seed: int) -> Counter[str]:
    """Sends `count` mutated messages; gives how often each status and code was the answer."""
    channel = daemon.channel()
    calls: dict[str, grpc.UnaryUnaryMultiCallable] = {
        method: channel.unary_unary(f"/{method}") for method in (INFER, *OTHER_CALLS)
    }
    answers: Counter[str] = Counter()
    under_way: deque[tuple[str, bytes, grpc.Future]] = deque()

    def settle() -> None:
        method, data, call = under_way.popleft()
        status = call.code()
        assert status in ALLOWED, f"{status}: {call.details()}\nfor {method} {data.hex()}"
        if status is grpc.StatusCode.OK:
            answers["OK"] += 1
            if method == INFER:
                assert_answers(data, pb.ModelInferResponse.FromString(call.result()))
        else:
            code = dict(call.trailing_metadata()).get("edged-code", "")
            assert code, f"{status} without edged-code: {call.details()}\nfor {method} {data.hex()}"
            assert call.details()
            answers[code] += 1

    for method, data in itertools.islice(messages(Random(seed)), count):
        if len(under_way) == UNDER_WAY:
            settle()
        under_way.append((method, data, calls[method].future(data, timeout=PATIENCE_S)))
    while under_way:
        settle()
    return answers


Fuzz = Callable[[Daemon, int, int], Counter[str]]


@pytest.mark.parametrize("count", [12_000, pytest.param(250_000, marks=pytest.mark.slow)])
def test_no_message_hurts_the_daemon_or_another_caller(daemon: Daemon, count: int) -> None:
    seed = int(os.environ.get("EDGED_FUZZ_SEED") or SystemRandom().getrandbits(32))
    print(f"EDGED_FUZZ_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    before = daemon.status()
    logged = len(daemon.log())
    unique = Unique(daemon, daemon.channel().unary_unary(f"/{INFER}"))
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(unique.run)
        try:
            answers = fuzz(daemon, count, seed)
        finally:
            unique.stop()
        others.result()
    print(answers, unique.answered)  # noqa: T201
    assert unique.answered >= count / 20
    assert answers["OK"] >= count / 20
    assert REACHED - set(answers) == set()
    after = daemon.status()
    models = after.models, before.models
    assert after.ready
    assert [(worker.pid, worker.restarts) for worker in after.workers] == [
        (worker.pid, worker.restarts) for worker in before.workers
    ]
    assert [model.requests_failed for model in after.models] == [model.requests_failed for model in before.models]
    shared = [
        now.requests_ok - then.requests_ok > now.batches - then.batches for now, then in zip(*models, strict=True)
    ]
    assert any(shared), "no two requests ever shared a batch, in which they could have been mixed up"
    assert "defect" not in daemon.log()[logged:]
