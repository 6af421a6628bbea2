"""`ModelStreamInfer`: many requests and their answers over one call, with Triton's replies.

Answers for one model come in the order of its requests, as Triton's do; those for another may overtake them. An error
is a reply like an answer; where the call's header `triton_grpc_error` is `true` the first one ends the call with its
status. A stream whose answers are not read stops being read itself, so that what it holds stays bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import msgspec

from edged.errors import Code, EdgedError
from edged.rpc.answer import write_stream_answer, write_stream_error
from edged.rpc.server import unexpected
from edged.rpc.wire import read_address
from edged.serving.request import Answer, Call
from edged.types import Level

# Requests of one stream that are under way, or answered and not yet taken by their reader.
_MAX_UNDER_WAY = 64

# Bytes of answers that one stream, and all streams together, hold for their readers. What an answer may have is counted
# as its request is taken, and a stream is read only while that fits: an answer that has no more is never refused, one
# that has is where the rest does not fit. One answer always fits a stream: so where half of what all may hold is
# counted, each is read one request at a time.
_HELD_BYTES = 16 * 1024 * 1024
_HELD_BYTES_IN_ALL = 256 * 1024 * 1024

# So much more than the longest so far: answers to the like differ by what callers choose, ids, and what models say.
_SPARE_BYTES = 16 * 1024

_STRICT = ("triton_grpc_error", "true")

Infer = Callable[[Call, float | None, Callable[[Answer], bytes]], Awaitable[bytes]]
Reply = bytes | EdgedError


class Streams:
    """All calls of ModelStreamInfer."""

    def __init__(self, read: Callable[[bytes], Call], infer: Infer, level: Callable[[], Level]) -> None:
        """`read` makes a call of the bytes of a request, or raises EdgedError; `infer` answers a call within the
        seconds that remain, with what the renderer makes of the answer.

        `level`: how hard the device is pressed, as each answer tells.
        """
        self.read = read
        self.infer = infer
        self.level = level
        self.counted_bytes = 0
        """Of answers that wait for their readers, and of those that are to come."""

    async def converse(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """One call. Raises EdgedError where its caller wants errors as statuses."""
        await _Stream(self, requests, context).run()


class _Turn(msgspec.Struct, eq=False):
    """A request's place among those for its model, and its reply once there is one."""

    counted: int
    """Bytes that its reply may have in any case."""
    reply: Reply | None = None


class _Stream:
    def __init__(self, streams: Streams, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        self._streams = streams
        self._requests = requests
        self._context = context
        self._strict = _STRICT in (context.invocation_metadata() or ())
        self._under_way = 0
        self._held = 0
        self._counted = 0
        self._expected = _SPARE_BYTES
        """Bytes that the next answer may have."""
        self._turns: dict[str, deque[_Turn]] = {}
        self._replies: asyncio.Queue[Reply | None] = asyncio.Queue()
        """What may be written now; None: nothing more comes."""
        self._room = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Reads and writes until the caller has said its last and has all its answers."""
        reader = asyncio.create_task(self._read(), name="stream")
        try:
            while (reply := await self._replies.get()) is not None:
                if isinstance(reply, EdgedError):
                    raise reply
                await self._context.write(reply)
                self._held -= len(reply)
                self._count(-len(reply))
                self._under_way -= 1
                self._room.set()
                if reader.done() and not self._under_way:
                    break
        finally:  # what is not answered by now is not wanted any more
            pending = [reader, *self._tasks]
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            self._count(-self._counted)

    async def _read(self) -> None:
        try:
            async for data in self._requests:
                self._take(data)
                while not self._has_room():
                    self._room.clear()
                    await self._room.wait()
        except Exception:  # noqa: BLE001 - told as a defect, and logged
            self._replies.put_nowait(unexpected())
        if not self._under_way:
            self._replies.put_nowait(None)

    def _has_room(self) -> bool:
        if not self._under_way:
            return True
        if self._streams.counted_bytes > _HELD_BYTES_IN_ALL // 2:
            return False
        return self._under_way < _MAX_UNDER_WAY and self._counted + self._expected <= _HELD_BYTES

    def _take(self, data: bytes) -> None:
        """Begins to answer one request."""
        self._under_way += 1
        turn = _Turn(self._expected)
        self._count(turn.counted)
        try:
            call = self._streams.read(data)
        except EdgedError as error:
            model, identity = read_address(data)
            self._turns.setdefault(model, deque()).append(turn)
            self._end(model, turn, self._refusal(error, identity, turn))
            return
        self._turns.setdefault(call.model, deque()).append(turn)
        task = asyncio.create_task(self._answer(call, turn), name=f"stream {call.model[:64]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: Call, turn: _Turn) -> None:
        """Has a request answered."""

        def render(answer: Answer) -> bytes:
            return write_stream_answer(answer, call.id, self._streams.level())

        try:
            reply: Reply = await self._streams.infer(call, self._context.time_remaining(), render)
            reply = self._kept(reply, call, turn) if isinstance(reply, bytes) else reply
        except EdgedError as error:
            reply = self._refusal(error, call.id, turn)
        except Exception:  # noqa: BLE001 - answered as a defect, and logged
            reply = self._refusal(unexpected(), call.id, turn)
        self._end(call.model, turn, reply)

    def _end(self, model: str, turn: _Turn, reply: Reply) -> None:
        """One has its reply; those of its model go out in turn."""
        turn.reply = reply
        turns = self._turns[model]
        while turns and turns[0].reply is not None:
            self._replies.put_nowait(turns.popleft().reply)
        if not turns:
            del self._turns[model]

    def _kept(self, reply: bytes, call: Call, turn: _Turn) -> Reply:
        """The reply, or where what waits for this reader would be too much with it, a refusal."""
        size = len(reply)
        self._expected = max(self._expected, size + _SPARE_BYTES)
        more = size - turn.counted
        all_counted = self._streams.counted_bytes
        too_much = self._counted + more > _HELD_BYTES or all_counted + more > _HELD_BYTES_IN_ALL
        if self._held and more > 0 and too_much:
            error = EdgedError(
                Code.OVERLOADED,
                f"{self._held} bytes of answers wait to be read from this stream",
                "read what comes, or send less at a time",
            )
            return self._refusal(error, call.id, turn)
        self._hold(size, turn)
        return reply

    def _refusal(self, error: EdgedError, identity: str, turn: _Turn) -> Reply:
        if self._strict:
            return error
        reply = write_stream_error(error, identity)
        self._hold(len(reply), turn)
        return reply

    def _hold(self, size: int, turn: _Turn) -> None:
        """A reply waits for its reader: what was counted for it is known now."""
        self._held += size
        self._count(size - turn.counted)

    def _count(self, size: int) -> None:
        self._counted += size
        self._streams.counted_bytes += size
