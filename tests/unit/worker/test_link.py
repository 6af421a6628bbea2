"""The front's end of the link, against a peer written by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Code, EdgedError
from edged.worker.link import _BUFFER_BYTES, Link, Reply
from edged.worker.messages import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    PREFIX,
    Answered,
    Failed,
    FileRef,
    Infer,
    InputPart,
    Loaded,
    RunGolden,
    ToWorker,
)

ASKED = Infer(("x",), ("y",), [(InputPart((1,), 4, 0),)], (-1,), ((-1, 0),))


def reply(number: int) -> Failed:
    """A reply that can be told from others."""
    return Failed(Code.INFERENCE_FAILED, f"reply {number}", "")


def frame(message: Any, body: bytes = b"") -> bytes:
    head = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
    return PREFIX.pack(len(head), len(body)) + head + body


def sized(size: int, number: int = 0) -> bytes:
    """A frame of `size` bytes altogether."""
    empty = frame(reply(number))
    return frame(reply(number), bytes([number % 256]) * (size - len(empty)))


class Watched(Link):
    """A link that tells how much it has read."""

    def __init__(self) -> None:
        super().__init__()
        self._read = 0
        self._reading = asyncio.Event()

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self._read += nbytes
        self._reading.set()

    async def has_read(self, size: int) -> None:
        """Waits for the next `size` bytes."""
        end = self._read + size
        while self._read < end:
            self._reading.clear()
            await self._reading.wait()


class Peer:
    """The worker's end."""

    def __init__(self, link: Watched, end: socket.socket) -> None:
        self._link = link
        self._end = end
        self._loop = asyncio.get_running_loop()

    async def receive(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer when the link ends."""
        data = b""
        while len(data) < size and (more := await self._loop.sock_recv(self._end, size - len(data))):
            data += more
        return data

    async def asked(self) -> tuple[ToWorker, bytes]:
        """The next message from the front, with its body."""
        head, body = PREFIX.unpack(await self.receive(PREFIX.size))
        return msgspec.msgpack.decode(await self.receive(head), type=ToWorker), await self.receive(body)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._end, data)

    async def send_alone(self, data: bytes) -> None:
        """Sends, and waits until all of it has been read; nothing else is under way."""
        reading = asyncio.ensure_future(self._link.has_read(len(data)))
        await asyncio.sleep(0)
        await self.send(data)
        await reading

    async def ended(self) -> None:
        """Waits until the front has closed its end."""
        try:
            while await self._loop.sock_recv(self._end, 65536):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        self._end.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Peer]]:
    front, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    front.setblocking(False)
    end.setblocking(False)
    with end:
        transport, link = await asyncio.get_running_loop().create_unix_connection(Watched, sock=front)
        peer = Peer(link, end)
        yield link, peer
        transport.abort()
        peer.close()
        await asyncio.sleep(0)  # the transport closes in the loop's next turn
        await asyncio.sleep(0)


async def gone(future: asyncio.Future[Reply]) -> None:
    with pytest.raises(EdgedError) as caught:
        await future
    assert (caught.value.code, caught.value.message) == (Code.WORKER_CRASHED, "the worker ended before it answered")


async def got(future: asyncio.Future[Reply]) -> tuple[Any, bytes]:
    message, body = await future
    return message, bytes(body)


# Out.


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        ((), b""),
        ((b"abc",), b"abc"),
        ((b"", b"a", memoryview(b"bcd")[1:], bytes(3)), b"acd\0\0\0"),
        ((memoryview(bytearray(3 * 2**20)),), bytes(3 * 2**20)),
        (tuple(bytes([number]) for number in range(200)) * 10, bytes(range(200)) * 10),
    ],
)
def test_a_message_goes_out_with_its_parts_as_one_body(run, parts, body):
    async def test() -> None:
        async with linked() as (link, peer):
            future = link.send(ASKED, parts)
            assert await peer.asked() == (ASKED, body)
            await peer.send(frame(reply(1)))
            assert await got(future) == (reply(1), b"")

    run(test())


def test_messages_go_out_in_order(run):
    async def test() -> None:
        golden = RunGolden(FileRef("g.npz", 1, "0" * 64), 0.5, 0.25)
        async with linked() as (link, peer):
            futures = [link.send(ASKED, [b"first"]), link.send(golden), link.send(ASKED, [b"third"])]
            assert [await peer.asked() for _ in futures] == [(ASKED, b"first"), (golden, b""), (ASKED, b"third")]
            link.close()
            for future in futures:
                await gone(future)

    run(test())


# Back.


def test_replies_come_in_order(run):
    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in range(3)]
            await peer.send_alone(frame(reply(0), b"zero"))
            assert [future.done() for future in futures] == [True, False, False]
            await peer.send(frame(Loaded(1.5, 2.5)) + frame(Answered([], (), 1, 2, 3), b"two"))
            assert await got(futures[1]) == (Loaded(1.5, 2.5), b"")
            assert await got(futures[2]) == (Answered([], (), 1, 2, 3), b"two")
            assert await got(futures[0]) == (reply(0), b"zero")

    run(test())


def test_a_frame_may_be_cut_anywhere(run):
    async def test() -> None:
        whole = frame(reply(0), b"body")
        async with linked() as (link, peer):
            for cut in range(1, len(whole)):
                future = link.send(ASKED)
                await peer.send_alone(whole[:cut])
                assert not future.done()
                await peer.send(whole[cut:])
                assert await got(future) == (reply(0), b"body")

    run(test())


def test_a_frame_may_come_byte_by_byte(run):
    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in range(2)]
            for byte in frame(reply(0), b"zero") + frame(reply(1), b"one"):
                await peer.send_alone(bytes([byte]))
            assert [await got(future) for future in futures] == [(reply(0), b"zero"), (reply(1), b"one")]

    run(test())


def test_many_frames_may_come_at_once(run):
    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in range(500)]
            await peer.send(b"".join(frame(reply(number), bytes([number % 256])) for number in range(500)))
            for number, future in enumerate(futures):
                assert await got(future) == (reply(number), bytes([number % 256]))

    run(test())


SIZES = [
    [_BUFFER_BYTES - 1],
    [_BUFFER_BYTES],
    [_BUFFER_BYTES + 1],
    [2 * _BUFFER_BYTES],
    [3 * 2**20 + 7],
    [100, _BUFFER_BYTES],
    [100, _BUFFER_BYTES + 1, 100],
    [_BUFFER_BYTES - 5, 100, 100],
    [3 * 2**20, 3 * 2**20, 100, _BUFFER_BYTES, 2**20],
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_frame_may_be_larger_than_the_buffer(run, sizes):
    async def test() -> None:
        frames = [sized(size, number) for number, size in enumerate(sizes)]
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in frames]
            sending = asyncio.ensure_future(peer.send(b"".join(frames)))
            for number, future in enumerate(futures):
                message, body = await got(future)
                assert frame(message, body) == frames[number]
            await sending

    run(test())


def test_a_body_stays_as_it_came(run):
    """What comes later is read into the same buffer."""

    async def test() -> None:
        async with linked() as (link, peer):
            bodies = []
            for size in (10, 100, 2 * _BUFFER_BYTES, 10):
                future = link.send(ASKED)
                await peer.send(frame(reply(0), bytes([size % 251]) * size))
                bodies.append(((await future)[1], bytes([size % 251]) * size))
            assert all(body == wanted for body, wanted in bodies)

    run(test())


def test_the_reply_of_one_who_gave_up_is_dropped(run):
    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in range(3)]
            futures[1].cancel()
            await peer.send(b"".join(frame(reply(number)) for number in range(3)))
            assert await got(futures[0]) == (reply(0), b"")
            assert await got(futures[2]) == (reply(2), b"")

    run(test())


# A worker out of its mind.

GARBAGE = [
    b"",
    b"\xc1",
    b"plain text, and long enough",
    msgspec.msgpack.encode(ASKED),  # what only the front says
    msgspec.msgpack.encode([99, 1, 2]),
    msgspec.msgpack.encode([3, "code", "message"]),
    msgspec.msgpack.encode([3, "code", 7, "hint"]),
    b"\x94\x03\xa1\xff\xa1b\xa1c",  # a string that is no UTF-8
    msgspec.msgpack.encode(reply(0)) + b"\0",
    msgspec.msgpack.encode(reply(0))[:-1],
]


@pytest.mark.parametrize("head", GARBAGE)
@pytest.mark.parametrize("body", [b"", bytes(2 * _BUFFER_BYTES)], ids=["small", "large"])
def test_a_head_that_is_no_message_ends_the_link(run, head, body):
    """Nothing that follows is taken for an answer."""

    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in range(3)]
            good = frame(reply(0), b"good")
            sending = asyncio.ensure_future(peer.send(good + frame(head, body) + good + good))
            assert await got(futures[0]) == (reply(0), b"good")
            await gone(futures[1])
            await gone(futures[2])
            await gone(link.send(ASKED))
            await peer.ended()
            await asyncio.wait([sending])
            assert sending.exception() is None or isinstance(sending.exception(), ConnectionError)

    run(test())


@pytest.mark.parametrize("count", [0, 1])
def test_a_reply_that_nobody_asked_for_ends_the_link(run, count):
    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in range(count)]
            await peer.send(frame(reply(0)) * (count + 1))
            for future in futures:
                assert await got(future) == (reply(0), b"")
            await peer.ended()
            await gone(link.send(ASKED))

    run(test())


@pytest.mark.parametrize(
    "prefix",
    [
        PREFIX.pack(MAX_HEAD_BYTES + 1, 0),
        PREFIX.pack(0, MAX_BODY_BYTES + 1),
        PREFIX.pack(2**32 - 1, 2**64 - 1),
        b"GET / HTTP/1.1\r\n",
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_frame_too_long_to_be_one_ends_the_link(run, prefix, count):
    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in range(count + 2)]
            await peer.send(frame(reply(0)) * count + prefix)
            for future in futures[:count]:
                assert await got(future) == (reply(0), b"")
            for future in futures[count:]:
                await gone(future)
            await peer.ended()

    run(test())


# The end.


@pytest.mark.parametrize(
    "begun",
    [b"", frame(reply(1))[:3], frame(reply(1))[: PREFIX.size], frame(reply(1))[:-1], sized(2 * _BUFFER_BYTES)[:-1]],
    ids=["between frames", "in a prefix", "after a prefix", "in a head", "in a large body"],
)
def test_a_worker_that_ends_leaves_nobody_waiting(run, begun):
    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED) for _ in range(3)]
            futures[2].cancel()
            await peer.send(frame(reply(0)) + begun)
            peer.close()
            assert await got(futures[0]) == (reply(0), b"")
            await gone(futures[1])
            await gone(link.send(ASKED))

    run(test())


def test_closing_gives_up_what_waits(run):
    async def test() -> None:
        async with linked() as (link, peer):
            futures = [link.send(ASKED, [bytes(2**20)]) for _ in range(2)]
            link.close()
            link.close()
            await gone(link.send(ASKED))
            for future in futures:
                await gone(future)
            await peer.ended()

    run(test())


def test_a_link_that_was_never_made_answers_nothing(run):
    async def test() -> None:
        link = Link()
        link.close()
        await gone(link.send(ASKED))

    run(test())


# Any cut of any frames, without a loop's own habits.


class _Transport(asyncio.WriteTransport):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def writelines(self, list_of_data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def _feed(link: Link, data: bytes, next_cut: Callable[[], int]) -> None:
    at = 0
    while at < len(data):
        buffer = link.get_buffer(-1)
        assert len(buffer), "the transport would be out of its mind"
        count = min(len(buffer), len(data) - at, next_cut())
        buffer[:count] = data[at : at + count]
        at += count
        link.buffer_updated(count)


@given(data=st.data())
def test_any_frames_in_any_pieces(data):
    near = st.integers(-60, 60).map(lambda offset: _BUFFER_BYTES + offset)
    sizes = data.draw(st.lists(st.integers(60, 300) | near | st.integers(60, 3 * _BUFFER_BYTES), max_size=6))
    cuts = st.integers(1, 40) | st.integers(1, 2 * _BUFFER_BYTES) | near
    pieces = data.draw(st.lists(cuts, min_size=1, max_size=30))

    async def test() -> None:
        link, transport = Link(), _Transport()
        link.connection_made(transport)
        frames = [sized(size, number) for number, size in enumerate(sizes)]
        futures = [link.send(ASKED) for _ in frames]
        left = list(pieces)
        _feed(link, b"".join(frames), lambda: left.pop() if left else 10**9)
        assert [frame(*future.result()) for future in futures] == frames
        assert not transport.aborted

    asyncio.run(test())


@given(st.binary(max_size=60))
def test_any_head_is_a_message_or_ends_the_link(head):
    async def test() -> None:
        link, transport = Link(), _Transport()
        link.connection_made(transport)
        future = link.send(ASKED)
        _feed(link, frame(head), lambda: 10**9)
        assert future.done() != transport.aborted
        link.connection_lost(None)
        future.exception()

    asyncio.run(test())
