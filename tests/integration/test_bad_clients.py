"""Clients that give up at random, and that lie about sizes: nobody else notices, and nothing is left of them."""

from __future__ import annotations

import struct
import uuid
from random import Random

import grpc
import pytest
from support.calls import refused, request, tensor
from support.daemon import PATIENCE_S, Daemon

from edged._pb.inference import grpc_service_pb2 as pb
from edged.client import SharedRegion
from edged.serving.admission import MAX_TEXTS

UNARY = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
SHARED_MEMORY = "inference.GRPCInferenceService/SystemSharedMemory"
COLUMNS = 2000
CALLS = 300


def numbered(number: int, columns: int = COLUMNS) -> pb.ModelInferRequest:
    data = struct.pack("<q", number) * columns
    return request("identity-int64", tensor("x", "INT64", [1, columns]), raw=[data], id=str(number))


def assert_own(answer: pb.ModelInferResponse, number: int) -> None:
    assert answer.id == str(number)
    assert answer.raw_output_contents[0] == struct.pack("<q", number) * COLUMNS


def test_callers_that_cancel_at_random_cost_the_others_nothing(daemon: Daemon) -> None:
    seed = Random().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    random = Random(seed)
    channel = daemon.channel()
    unary = channel.unary_unary(
        UNARY,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    stream = channel.stream_stream(
        STREAM,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    kept: list[tuple[int, grpc.Future]] = []
    for number in range(CALLS):
        if random.random() < 0.2:
            talk = stream(map(numbered, range(random.randrange(100))), timeout=PATIENCE_S)
            for reply in talk:
                if random.random() < 0.3:
                    break
                assert_own(reply.infer_response, int(reply.infer_response.id))
            talk.cancel()
        call = unary.future(numbered(number), timeout=random.choice((PATIENCE_S, PATIENCE_S, 0.001)))
        if random.random() < 0.5:
            call.cancel()
        kept.append((number, call))
        if len(kept) > 32:
            settle(*kept.pop(random.randrange(len(kept))))
    for each in kept:
        settle(*each)
    status = daemon.wait_for(lambda status: all(not each.queued and not each.executing for each in status.models))
    assert status.ready
    assert_own(daemon.infer(numbered(7)), 7)


def settle(number: int, call: grpc.Future) -> None:
    """An answer is its own; else the caller gave up, was late, or was turned away."""
    try:
        assert_own(call.result(), number)
    except (grpc.FutureCancelledError, grpc.RpcError):
        assert call.cancelled() or call.code() in (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )


def test_one_that_lies_about_sizes_is_told_so_in_a_stream_with_honest_ones(daemon: Daemon) -> None:
    seed = Random().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    random = Random(seed)
    asked = []
    for number in range(CALLS):
        each = numbered(number)
        if number % 3 == 0:
            size = 8 * COLUMNS
            lie = random.choice((0, 1, size - 1, size + 1, size - 8, size + 8, 2 * size))
            each.raw_input_contents[0] = bytes(lie)
        elif number % 3 == 1:
            lie = random.choice((-(2**63), -1, COLUMNS - 1, COLUMNS + 1, 2**31, 2**40, 2**62, 2**63 - 1))
            each.inputs[0].shape[random.randrange(2)] = lie
        asked.append(each)
    stream = daemon.channel().stream_stream(
        STREAM,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    replies = list(stream(iter(asked), timeout=PATIENCE_S))
    assert [reply.infer_response.id for reply in replies] == [str(number) for number in range(CALLS)]
    for number, reply in enumerate(replies):
        if number % 3 == 2:
            assert_own(reply.infer_response, number)
        else:
            assert reply.error_message.startswith("model 'identity-int64' got ")
            assert reply.infer_response.parameters["edged_code"].string_param == "invalid_tensor"


@pytest.mark.parametrize("lies", ["in the message", "in shared memory"])
def test_one_that_sends_more_texts_than_a_worker_can_walk_is_told_so_and_the_model_stays(
    daemon: Daemon, lies: str
) -> None:
    """Empty ones take 4 bytes each: a message of 64 MiB has room for 16 million, which look like a hang."""
    pids = {each.model: each.pid for each in daemon.status().workers}

    def texts(count: int) -> pb.ModelInferRequest:
        return request("identity-bytes", tensor("x", "BYTES", [1, count]), raw=[bytes(4 * count)])

    asked = texts(MAX_TEXTS + 1)
    with SharedRegion(f"texts-{uuid.uuid4().hex}", 4 * (MAX_TEXTS + 1), group=None) as region:
        if lies == "in shared memory":
            del asked.raw_input_contents[:]
            asked.inputs[0].parameters["shared_memory_region"].string_param = "texts"
            asked.inputs[0].parameters["shared_memory_byte_size"].int64_param = region.byte_size
            named = pb.SystemSharedMemoryRegisterRequest(name="texts", key=region.key, byte_size=region.byte_size)
            daemon.call(f"{SHARED_MEMORY}Register", named, pb.SystemSharedMemoryRegisterResponse)
        found = refused(daemon, asked)
        done = pb.SystemSharedMemoryUnregisterRequest(name="texts")
        daemon.call(f"{SHARED_MEMORY}Unregister", done, pb.SystemSharedMemoryUnregisterResponse)
    assert (found.status, found.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_tensor")
    assert found.message == (
        f"model 'identity-bytes' got {MAX_TEXTS + 1} elements of BYTES as 'x'; "
        f"a request has at most {MAX_TEXTS} of them"
    )
    assert daemon.infer(texts(MAX_TEXTS)).raw_output_contents == [bytes(4 * MAX_TEXTS)]
    assert {each.model: each.pid for each in daemon.status().workers} == pids
