"""The connection against brokers that misbehave on purpose, byte by byte as MQTT v5 has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from socket import socket
from typing import Any

import pytest
from support.habits import CONNACK, PUBACK, PUBLISH, Habits, packet, served

from edged.config.address import Broker
from edged.system.identity import Files
from edged.telemetry import connection, mqtt
from edged.telemetry.mqtt import NO_SUBSCRIBER, Message, Mqtt, NotSentError, Options


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
    habits.acknowledges = False
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


async def test_a_broker_that_lets_no_command_through_is_told_and_kept(tmp_path):
    habits = Habits()
    habits.subscribed = b"\x87"
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: link.connected)
            assert await link.publish(MESSAGE) == 0
            assert link.problem.startswith("the broker lets no command through: edged/1/shops/command: Not authorized")
            assert link.connected


async def test_a_broker_that_speaks_an_older_mqtt_is_told(tmp_path):
    habits = Habits()
    habits.connack = packet(CONNACK, b"\0\1")  # of MQTT 3.1.1: unacceptable protocol version
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: "Unsupported protocol version" in link.problem)


async def test_a_broker_that_says_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_S", 0.1)
    habits = Habits()
    habits.connack = b""
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: "see that it speaks MQTT v5" in link.problem)


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
