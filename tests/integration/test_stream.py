"""ModelStreamInfer as a caller meets it: Triton's replies, order, errors, and what a bad reader costs."""

from __future__ import annotations

import queue
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import pytest
from support.calls import ELEMENTS, identity, pack, request, tensor
from support.daemon import PATIENCE_S, Daemon

from edged._pb.inference import grpc_service_pb2 as pb
from edged.types import Datatype
from edged.worker.usage import resident_bytes

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
STRICT = (("triton_grpc_error", "true"),)


def numbered(number: int, *, columns: int = 1, model: str = "identity-int64", **fields: Any) -> pb.ModelInferRequest:
    """A request with `number` as its id and as all its elements."""
    return request(
        model,
        tensor("x", "INT64", [1, columns]),
        raw=[struct.pack("<q", number) * columns],
        id=str(number),
        **fields,
    )


def stream(daemon: Daemon, requests: Iterable[pb.ModelInferRequest], **options: Any) -> Any:
    """The call; iterate for its replies."""
    method = daemon.channel().stream_stream(
        METHOD,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    return method(iter(requests), timeout=PATIENCE_S, **options)


def number_of(reply: pb.ModelStreamInferResponse) -> int:
    """What the answer says, which is to be its id."""
    assert reply.error_message == ""
    [raw] = reply.infer_response.raw_output_contents
    [number] = set(struct.unpack(f"<{len(raw) // 8}q", raw))
    assert reply.infer_response.id == str(number)
    return int(number)


class Speaker:
    """Requests that are given one at a time."""

    def __init__(self) -> None:
        self._given: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[pb.ModelInferRequest]:
        while (each := self._given.get()) is not None:
            yield each

    def say(self, asked: pb.ModelInferRequest | None) -> None:
        self._given.put(asked)


def test_each_request_has_its_answer_in_order(daemon: Daemon) -> None:
    assert [number_of(reply) for reply in stream(daemon, map(numbered, range(500)))] == list(range(500))


def test_an_answer_is_that_of_model_infer_and_final(daemon: Daemon) -> None:
    asked = [
        request(identity(each), tensor("x", each, [2, 2]), raw=[pack(each, ELEMENTS[each])], id=each)
        for each in Datatype
    ]
    for reply in stream(daemon, asked):
        alone = daemon.infer(next(each for each in asked if each.id == reply.infer_response.id))
        assert reply.infer_response.parameters.pop("triton_final_response").bool_param is True
        assert reply.infer_response == alone


def test_a_stream_without_requests_ends(daemon: Daemon) -> None:
    assert list(stream(daemon, [])) == []


def test_a_conversation(daemon: Daemon) -> None:
    """A request, its answer, the next: the stream waits in both directions."""
    speaker = Speaker()
    call = stream(daemon, speaker)
    for number in range(20):
        speaker.say(numbered(number))
        assert number_of(next(call)) == number
    speaker.say(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


ERRORS = {
    "model": (numbered(1, model="nobody"), "there is no model 'nobody'", "model_not_found"),
    "shape": (request("sums", id="1"), "model 'sums' misses input 'a'", "invalid_tensor"),
    "sequence": (
        numbered(1, parameters={"sequence_id": pb.InferParameter(int64_param=1)}),
        "parameter 'sequence_id' is not supported",
        "unsupported",
    ),
}


@pytest.mark.parametrize(("wrong", "message", "code"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_a_reply_and_the_stream_goes_on(
    daemon: Daemon, wrong: pb.ModelInferRequest, message: str, code: str
) -> None:
    replies = list(stream(daemon, [numbered(0), wrong, numbered(2)]))
    assert len(replies) == 3
    [error] = [each for each in replies if each.error_message]
    assert error.error_message.startswith(message)
    assert error.infer_response.parameters["edged_code"].string_param == code
    assert error.infer_response.id == "1"
    assert [number_of(each) for each in replies if not each.error_message] == [0, 2]


@pytest.mark.parametrize(("wrong", "message", "code"), ERRORS.values(), ids=ERRORS)
def test_the_first_error_is_a_status_where_the_caller_wants_that(
    daemon: Daemon, wrong: pb.ModelInferRequest, message: str, code: str
) -> None:
    speaker = Speaker()
    call = stream(daemon, speaker, metadata=STRICT)
    speaker.say(numbered(0))
    assert number_of(next(call)) == 0
    speaker.say(wrong)
    with pytest.raises(grpc.RpcError):
        next(call)
    speaker.say(None)
    assert call.details().startswith(message)
    assert dict(call.trailing_metadata())["edged-code"] == code


def test_bytes_that_are_no_request_are_an_error_like_others(daemon: Daemon) -> None:
    method = daemon.channel().stream_stream(METHOD, response_deserializer=pb.ModelStreamInferResponse.FromString)
    asked = [b"\xff", numbered(1).SerializeToString()]
    first, second = method(iter(asked), timeout=PATIENCE_S)
    assert first.error_message.startswith("the request is no ModelInferRequest")
    assert number_of(second) == 1


def test_a_cancelled_stream_costs_nobody_anything(daemon: Daemon) -> None:
    for number in range(30):
        call = stream(daemon, (numbered(each, columns=1000) for each in range(200)))
        for _ in range(number % 5):
            next(call)
        call.cancel()
    assert [number_of(reply) for reply in stream(daemon, map(numbered, range(10)))] == list(range(10))
    daemon.wait_for(lambda status: all(not each.queued and not each.executing for each in status.models))
    assert "a defect of edged" not in daemon.log()


def test_readers_that_stop_are_bounded(daemon: Daemon) -> None:
    """Each asks for 4 GiB and takes none of it; what edged holds for them does not grow with that."""
    columns, streams = 128 * 1024, 8
    before = resident_bytes(daemon.pid)
    told = [0] * streams
    calls, channels = [], []

    def endless(index: int) -> Iterator[pb.ModelInferRequest]:
        asked = numbered(index, columns=columns)
        for _ in range(4096):
            told[index] += 1
            yield asked

    for index in range(streams):
        channels.append(grpc.insecure_channel(f"unix:{daemon.socket}", [("grpc.use_local_subchannel_pool", 1)]))
        method = channels[-1].stream_stream(METHOD, request_serializer=pb.ModelInferRequest.SerializeToString)
        calls.append(method(endless(index), timeout=PATIENCE_S))
    row = bytes(12)
    other = request("sums", *(tensor(name, "FP32", [1, 3]) for name in ("a", "b")), raw=[row, row], id="other")
    # Others are served meanwhile, and the streams that nobody reads come to a stand.
    still = 0
    while still < 100 and max(told) < 4096:
        last = list(told)
        assert daemon.infer(other).id == "other"
        still = still + 1 if last == told and min(told) else 0
    assert max(told) < 200
    assert resident_bytes(daemon.pid) - before < 400 * 2**20
    for call, channel in zip(calls, channels, strict=True):
        call.cancel()
        channel.close()
