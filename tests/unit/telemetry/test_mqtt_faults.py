"""The connection against brokers that misbehave on purpose, byte by byte as MQTT v5 has it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from socket import socket
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest

from edged.config.address import Broker
from edged.system.identity import Files
from edged.telemetry import mqtt
from edged.telemetry.mqtt import NO_SUBSCRIBER, Message, Mqtt, NotSentError, Options

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    length, size = b"", len(body)
    while True:
        size, digit = size >> 7, size & 0x7F
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([kind << 4 | flags]) + length + body


def read_packet(link: socket) -> tuple[int, bytes] | None:
    """Its kind and body; None at the end."""
    head = link.recv(1)
    if not head:
        return None
    size, shift = 0, 0
    while True:
        digit = link.recv(1)[0]
        size |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            break
    body = b""
    while len(body) < size:
        body += link.recv(size - len(body))
    return head[0] >> 4, body


class Habits:
    """What a broker does; the defaults are good manners."""

    def __init__(self) -> None:
        self.connack = packet(CONNACK, b"\0\0\0")
        self.after_connack = b""
        self.puback: Callable[[bytes], bytes | None] = lambda number: packet(PUBACK, number + b"\0\0")
        self.published = 0
        self.connections = 0


@contextlib.contextmanager
def served(habits: Habits) -> Iterator[int]:
    """A broker with these habits; gives its port."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            habits.connections += 1
            with contextlib.suppress(OSError, IndexError):
                while found := read_packet(self.request):
                    self.answer(*found)

        def answer(self, kind: int, body: bytes) -> None:
            if kind == CONNECT:
                self.request.sendall(habits.connack + habits.after_connack)
            elif kind == SUBSCRIBE:
                self.request.sendall(packet(SUBACK, body[:2] + b"\0" + b"\1"))
            elif kind == PUBLISH:
                habits.published += 1
                size = int.from_bytes(body[:2], "big")
                if (answer := habits.puback(body[2 + size : 4 + size])) is not None:
                    self.request.sendall(answer)

    class Server(ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextlib.asynccontextmanager
async def connected(port: int, tmp_path: Any, got: Callable[[Message], None] = lambda _: None) -> Any:
    options = Options(
        broker=Broker("127.0.0.1", port, tls=False, loopback=True),
        device="till-7",
        username="",
        files=Files(tmp_path / "c", tmp_path / "k", tmp_path / "a"),
        keep_alive_s=900,
        subscriptions=("edged/1/shops/command",),
        will_topic="online",
    )
    changed = asyncio.Event()
    found = Mqtt(options, lambda session: session.encode(), changed.set, got)
    found.start()

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                changed.clear()
                await changed.wait()

    try:
        yield found, until
    finally:
        await found.stop()


MESSAGE = Message(topic="t", payload=b"x")


async def test_an_acknowledgement_gives_its_reason_code(tmp_path):
    habits = Habits()
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: link.connected)
            assert await link.publish(MESSAGE) == 0
            habits.puback = lambda number: packet(PUBACK, number + bytes([NO_SUBSCRIBER, 0]))
            assert await link.publish(MESSAGE) == NO_SUBSCRIBER
            habits.puback = lambda number: packet(PUBACK, number + b"\x97\0")
            assert await link.publish(MESSAGE) == 0x97


async def test_a_broker_that_never_acknowledges_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(mqtt, "_ACKNOWLEDGE_S", 0.1)
    habits = Habits()
    habits.puback = lambda _number: None
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: link.connected)
            with pytest.raises(NotSentError, match="has not acknowledged"):
                await link.publish(MESSAGE)
            await until(lambda: link.connected and habits.connections == 2)
            assert habits.published == 1, "what was not acknowledged is sent again by whoever has it, not by itself"


async def test_a_broker_that_refuses_is_told(tmp_path):
    habits = Habits()
    habits.connack = packet(CONNACK, b"\0\x87\0")
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: "Not authorized" in link.problem)
            assert not link.connected


async def test_a_packet_without_end_is_not_read_into_memory(tmp_path):
    habits = Habits()
    habits.after_connack = b"\x30\xff\xff\xff\x7f" + bytes(300_000)
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: "more than" in link.problem)


async def test_a_flood_of_messages_is_dropped_beyond_a_few(tmp_path):
    habits = Habits()
    one = packet(PUBLISH, b"\0\1c" + b"\0" + b"payload")
    habits.after_connack = one * 500
    came: list[Message] = []
    with served(habits) as port:
        async with connected(port, tmp_path, came.append) as (link, until):
            await until(lambda: link.connected)
            async with asyncio.timeout(30):
                while len(came) + link.dropped < 500:  # noqa: ASYNC110 - what is dropped calls nobody
                    await asyncio.sleep(0.01)
    assert came


async def test_nobody_there_is_told_and_tried_again(tmp_path):
    with socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    async with connected(port, tmp_path) as (link, until):
        await until(lambda: f"127.0.0.1:{port}: [Errno 111]" in link.problem)
        with pytest.raises(NotSentError):
            await link.publish(MESSAGE)
