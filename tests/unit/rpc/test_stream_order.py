"""Which answer of a stream comes when, and what it holds for a reader that does not read. The model is the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.standins import settle

from edged._pb.inference import grpc_service_pb2 as pb
from edged.errors import Code, EdgedError
from edged.rpc import stream
from edged.rpc.stream import Streams
from edged.rpc.wire import read_request
from edged.serving.request import Answer, Call, Output
from edged.types import Datatype, Level

MIB = 2**20


class Models:
    """Answers a call when the test says so, by its id."""

    def __init__(self) -> None:
        self.asked: dict[str, asyncio.Future[int]] = {}
        self.cancelled: list[str] = []

    async def infer(self, call: Call, remaining_s: float | None, render: Callable[[Answer], bytes]) -> bytes:  # noqa: ARG002
        self.asked[call.id] = asyncio.get_running_loop().create_future()
        try:
            size = await self.asked[call.id]
        except asyncio.CancelledError:
            self.cancelled.append(call.id)
            raise
        data = Output("y", Datatype.UINT8, (size,), memoryview(bytes(size)))
        return render(Answer(call.model, 1, "cpu", False, (data,)))


class Caller:
    """One call: what it says, and what is written to it once it reads."""

    def __init__(self, *, strict: bool = False) -> None:
        self.said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.written: list[pb.ModelStreamInferResponse] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.taken = 0
        self._strict = strict

    def say(self, model: str, identity: str) -> None:
        self.said.put_nowait(pb.ModelInferRequest(model_name=model, id=identity).SerializeToString())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self.said.get()) is not None:
            self.taken += 1
            yield data

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("triton_grpc_error", "true"),) if self._strict else ()

    def time_remaining(self) -> float | None:
        return None

    async def write(self, data: bytes) -> None:
        await self.reads.wait()
        self.written.append(pb.ModelStreamInferResponse.FromString(data))

    @property
    def ids(self) -> list[str]:
        return [reply.infer_response.id for reply in self.written]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def streams(models: Models) -> Streams:
    return Streams(read_request, models.infer, lambda: Level.NOMINAL)


def begin(streams: Streams, caller: Any) -> asyncio.Task[None]:
    return asyncio.create_task(streams.converse(caller.__aiter__(), caller))


async def end(streams: Streams, calls: list[asyncio.Task[None]]) -> None:
    """Whoever has gone holds nothing."""
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert streams.counted_bytes == 0


async def test_models_overtake_each_other_and_themselves_never(streams, models):
    caller = Caller()
    call = begin(streams, caller)
    for model, identity in (("a", "a1"), ("b", "b1"), ("a", "a2"), ("b", "b2")):
        caller.say(model, identity)
    await settle()
    for identity in ("b2", "a2"):
        models.asked[identity].set_result(1)
    await settle()
    assert caller.ids == []
    models.asked["b1"].set_result(1)
    await settle()
    assert caller.ids == ["b1", "b2"]
    models.asked["a1"].set_exception(EdgedError(Code.MODEL_UNAVAILABLE, "gone"))
    caller.said.put_nowait(None)
    await call
    assert caller.ids == ["b1", "b2", "a1", "a2"]
    assert [reply.error_message for reply in caller.written] == ["", "", "gone", ""]
    assert streams.counted_bytes == 0


async def test_what_cannot_be_taken_is_refused_by_its_id_and_in_its_turn(streams, models):
    caller = Caller()
    call = begin(streams, caller)
    caller.say("a", "a1")
    refused = pb.ModelInferRequest(
        model_name="a", id="a2", parameters={"sequence_id": pb.InferParameter(int64_param=1)}
    )
    caller.said.put_nowait(refused.SerializeToString())
    caller.said.put_nowait(b"\xff")
    await settle()
    assert caller.ids == [""], "what names no model waits for none"
    models.asked["a1"].set_result(1)
    caller.said.put_nowait(None)
    await call
    assert caller.ids == ["", "a1", "a2"]
    assert streams.counted_bytes == 0


async def test_a_strict_error_comes_in_its_turn_and_ends_the_call(streams, models):
    caller = Caller(strict=True)
    call = begin(streams, caller)
    for identity in ("1", "2", "3"):
        caller.say("a", identity)
    await settle()
    models.asked["2"].set_exception(EdgedError(Code.OVERLOADED, "full"))
    await settle()
    assert not call.done()
    models.asked["1"].set_result(1)
    with pytest.raises(EdgedError, match="full"):
        await call
    assert (caller.ids, models.cancelled) == (["1"], ["3"])


async def test_the_end_of_a_call_cancels_what_it_asked(streams, models):
    caller = Caller()
    caller.reads.clear()
    call = begin(streams, caller)
    for identity in ("1", "2", "3"):
        caller.say("a", identity)
    await settle()
    models.asked["1"].set_result(1000)
    await settle()
    assert streams.counted_bytes > 1000
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert sorted(models.cancelled) == ["2", "3"]
    assert streams.counted_bytes == 0


async def test_a_stream_is_read_while_few_of_its_requests_are_under_way(streams, models):
    caller = Caller()
    call = begin(streams, caller)
    for number in range(3 * stream._MAX_UNDER_WAY):
        caller.say("a", str(number))
    await settle()
    assert caller.taken == stream._MAX_UNDER_WAY
    models.asked["0"].set_result(1)
    await settle()
    assert caller.taken == stream._MAX_UNDER_WAY + 1
    call.cancel()
    await asyncio.wait([call])


async def test_answers_that_are_not_read_stop_the_reading(streams, models):
    caller = Caller()
    caller.reads.clear()
    call = begin(streams, caller)
    caller.say("a", "0")
    await settle()
    models.asked["0"].set_result(4 * MIB)
    await settle()
    for number in range(1, 20):
        caller.say("a", str(number))
    await settle()
    assert caller.taken == 3  # three of them, and a fourth would not fit with its 4 MiB and a little
    caller.reads.set()
    await settle()
    assert caller.taken == 4  # one has been read, and one more fits
    call.cancel()
    await asyncio.wait([call])


async def test_what_is_too_much_for_a_reader_is_refused(streams, models):
    """Many were asked for before the first showed how large they are."""
    caller = Caller()
    caller.reads.clear()
    call = begin(streams, caller)
    for number in range(8):
        caller.say("a", str(number))
    await settle()
    for number in range(8):
        models.asked[str(number)].set_result(5 * MIB)
    await settle()
    assert streams.counted_bytes < stream._HELD_BYTES
    caller.said.put_nowait(None)
    caller.reads.set()
    await call
    assert caller.ids == [str(number) for number in range(8)]
    refused = [reply for reply in caller.written if reply.error_message]
    assert len(refused) == 5
    assert {reply.infer_response.parameters["edged_code"].string_param for reply in refused} == {"overloaded"}
    assert "bytes of answers wait to be read from this stream" in refused[0].error_message


async def test_one_answer_always_fits_however_large(streams, models):
    caller = Caller()
    call = begin(streams, caller)
    for number in range(2):
        caller.say("a", str(number))
        await settle()
        models.asked[str(number)].set_result(stream._HELD_BYTES + 1)
        await settle()
    caller.said.put_nowait(None)
    await call
    assert [reply.error_message for reply in caller.written] == ["", ""]


async def test_all_streams_together_are_bounded(streams, models, monkeypatch):
    monkeypatch.setattr(stream, "_HELD_BYTES_IN_ALL", 10 * MIB)
    callers = [Caller() for _ in range(10)]
    for caller in callers:
        caller.reads.clear()
    calls = [begin(streams, caller) for caller in callers]
    for index, caller in enumerate(callers):
        for number in range(4):
            caller.say("a", f"{index}-{number}")
    await settle()
    for asked in models.asked.values():
        asked.set_result(MIB)
    await settle()
    # Each has one whatever the others hold, and no more than that once all have too much.
    assert streams.counted_bytes < 10 * MIB + len(callers) * 1.1 * MIB
    await end(streams, calls)


async def test_whoever_reads_loses_nothing_by_one_that_does_not(streams, models, monkeypatch):
    monkeypatch.setattr(stream, "_HELD_BYTES_IN_ALL", 10 * MIB)
    idle, keen = Caller(), Caller()
    idle.reads.clear()
    calls = [begin(streams, caller) for caller in (idle, keen)]

    async def answer_all() -> None:
        await settle()
        for asked in models.asked.values():
            if not asked.done():
                asked.set_result(MIB)
        await settle()

    for number in range(9):
        idle.say("a", f"idle-{number}")
    await answer_all()
    for number in range(4):
        keen.say("b", f"keen-{number}")
    for _ in range(4):
        await answer_all()
    assert [(reply.infer_response.id, reply.error_message) for reply in keen.written] == [
        (f"keen-{number}", "") for number in range(4)
    ]
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    for number in range(4, 8):
        keen.say("b", f"keen-{number}")
    await settle()
    assert keen.taken == 8, "there is room for many at a time again"
    calls[1].cancel()
    await asyncio.wait(calls)


async def test_what_was_asked_before_others_filled_the_bound_is_answered(streams, models, monkeypatch):
    """One answer always fits each of them, read or not: together they take more than all may hold."""
    monkeypatch.setattr(stream, "_HELD_BYTES_IN_ALL", 10 * MIB)
    keen = Caller()
    calls = [begin(streams, keen)]
    keen.say("a", "first")
    await settle()
    models.asked["first"].set_result(MIB // 2)
    await settle()
    small, large = [f"small-{number}" for number in range(20)], [f"large-{number}" for number in range(3)]
    other = Caller()
    calls.append(begin(streams, other))
    for caller, model, ids in ((other, "b", small), (keen, "a", large)):
        for identity in ids:
            caller.say(model, identity)
    await settle()
    assert (other.taken, keen.taken) == (20, 4), "all of them are under way"
    for number in range(12):
        idle = Caller()
        idle.reads.clear()
        calls.append(begin(streams, idle))
        idle.say("c", f"idle-{number}")
        await settle()
        models.asked[f"idle-{number}"].set_result(MIB)
        await settle()
    assert streams.counted_bytes > 12 * MIB
    for identity in small:
        models.asked[identity].set_result(1000)
    for identity in large:
        models.asked[identity].set_result(MIB // 2)
    await settle()
    assert [(reply.infer_response.id, reply.error_message) for reply in other.written] == [(each, "") for each in small]
    assert [reply.error_message for reply in keen.written] == [""] * 4
    await end(streams, calls)


async def test_what_is_under_way_counts_before_it_is_answered(streams, models, monkeypatch):
    """So that what all streams are promised has a bound too."""
    monkeypatch.setattr(stream, "_HELD_BYTES_IN_ALL", 10 * MIB)
    first, second = Caller(), Caller()
    calls = [begin(streams, caller) for caller in (first, second)]
    first.say("a", "0")
    await settle()
    models.asked["0"].set_result(MIB)
    await settle()
    for number in range(1, 7):
        first.say("a", str(number))
    await settle()
    assert first.taken == 6, "five are under way, which would pass half of the bound"
    for number in range(20):
        second.say("b", f"second-{number}")
    await settle()
    assert second.taken == 1
    for identity in "12":
        models.asked[identity].set_exception(EdgedError(Code.OVERLOADED, "full"))
    await settle()
    assert first.taken == 7
    models.asked["second-0"].set_result(1)
    await settle()
    assert second.taken > 2, "what was counted and did not come counts no more"
    await end(streams, calls)
