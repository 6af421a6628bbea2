"""The front's end of the link to one worker: one message out, one back, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import cast

import msgspec

from edged.errors import Code, EdgedError
from edged.worker.messages import MAX_BODY_BYTES, MAX_HEAD_BYTES, PREFIX, FromWorker, ToWorker

Reply = tuple[FromWorker, memoryview]

# Frames that fit are read many at a time into one buffer; a larger one is read into a buffer of its own size.
_BUFFER_BYTES = 64 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FromWorker)


class Link(asyncio.BufferedProtocol):
    """Bytes of tensors pass through without a copy on the way out, and with one on the way back."""

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        """A worker that claims to answer with more than `max_body_bytes` is not believed: the link ends."""
        self._max_body_bytes = max_body_bytes
        self._loop = asyncio.get_running_loop()  # to be asked for it costs a system call
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the link has ended, by either end."""
        self._transport: asyncio.WriteTransport | None = None
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._small = memoryview(bytearray(_BUFFER_BYTES))
        self._large: memoryview | None = None
        self._filled = 0

    def send(self, message: ToWorker, body: Sequence[bytes | memoryview] = ()) -> asyncio.Future[Reply]:
        """Sends a message; its reply comes by the future, or EdgedError (worker_crashed) when the worker ends first.

        `body` must not change until the reply has come.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            future.set_exception(_gone())
            return future
        head = _encoder.encode(message)
        prefix = PREFIX.pack(
            len(head), sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in body)
        )
        self._waiting.append(future)
        self._transport.writelines([prefix + head, *body])
        return future

    def close(self) -> None:
        """Ends the link, by which the worker ends; replies not yet here are given up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(_gone())
        if not self.lost.done():
            self.lost.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the protocol's signature
        return (self._small if self._large is None else self._large)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._large is not None:
            if self._filled == len(self._large):
                frame, self._large, self._filled = self._large, None, 0
                head_size, _ = PREFIX.unpack_from(frame)
                self._deliver(frame[PREFIX.size : PREFIX.size + head_size], frame[PREFIX.size + head_size :])
            return
        at = 0
        while self._filled - at >= PREFIX.size:
            head_size, body_size = PREFIX.unpack_from(self._small, at)
            if head_size > MAX_HEAD_BYTES or body_size > self._max_body_bytes:
                self.close()
                return
            total = PREFIX.size + head_size + body_size
            if self._filled - at < total:
                if total > _BUFFER_BYTES:
                    self._large = memoryview(bytearray(total))
                    self._large[: self._filled - at] = self._small[at : self._filled]
                    self._filled -= at
                    return
                break
            head = self._small[at + PREFIX.size : at + PREFIX.size + head_size]
            body = bytes(self._small[at + PREFIX.size + head_size : at + total])
            at += total
            if not self._deliver(head, memoryview(body)):
                return
        if at:
            left = self._filled - at
            self._small[:left] = bytes(self._small[at : self._filled])
            self._filled = left

    def _deliver(self, head: memoryview, body: memoryview) -> bool:
        """Gives a reply to whom it is due; False when the worker is out of its mind, and nothing more may be read."""
        try:
            message = _decoder.decode(head)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.close()
            return False
        if not self._waiting:  # an answer that nobody asked for
            self.close()
            return False
        future = self._waiting.popleft()
        if not future.done():
            future.set_result((message, body))
        return True


def _gone() -> EdgedError:
    return EdgedError(Code.WORKER_CRASHED, "the worker ended before it answered")
