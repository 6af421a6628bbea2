"""The connection against brokers that misbehave on purpose, byte by byte as MQTT v5 has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.habits import CONNACK, DISCONNECT, PUBACK, PUBLISH, Habits, packet, served
from support.polling import until_async
from support.ports import free_port

from edged.config.address import Broker
from edged.system.identity import Files
from edged.telemetry import connection, mqtt
from edged.telemetry.mqtt import Mqtt, Options
from edged.telemetry.packet import NO_SUBSCRIBER, TOO_LARGE, Message, NotSentError, size_of


@contextlib.asynccontextmanager
async def connected(
    port: int,
    tmp_path: Any,
    got: Callable[[Message], None] = lambda _: None,
    warn: Callable[[str], None] = pytest.fail,
) -> Any:
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
    found = Mqtt(options, lambda session: session.encode(), changed.set, got, warn)
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


async def test_a_flood_of_messages_never_comes_to_the_loop(tmp_path):
    habits = Habits()
    one = packet(PUBLISH, b"\0\1c" + b"\0" + b"payload")
    habits.after_connack = one * 2000
    came: list[Message] = []
    with served(habits) as port:
        async with connected(port, tmp_path, came.append) as (link, until):
            await until(lambda: link.connected)
            async with asyncio.timeout(30):
                while len(came) + link.dropped < 2000:  # noqa: ASYNC110 - what is dropped calls nobody
                    await asyncio.sleep(0.01)
    assert 10 <= len(came) <= 20, "10 at once, and 10 a minute"


async def test_a_broker_that_shortens_the_keep_alive_is_pinged_as_often(tmp_path):
    habits = Habits()
    habits.connack = packet(CONNACK, b"\0\0\3\x13\0\1")  # a Server Keep Alive of 1 s
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: link.connected)
            await until_async(lambda: habits.pings >= 2, "the device has pinged, though it asked for 900 s")
            habits.connack = packet(CONNACK, b"\0\0\0")
            habits.hang_up()
            await until(lambda: link.connected and habits.connections == 2)
            pings = habits.pings
            await asyncio.sleep(2)
            assert habits.pings == pings, "the next connection asks for its own again"


async def test_a_broker_without_a_keep_alive_is_not_turned_for_ever(tmp_path, monkeypatch):
    turns = 0
    turn = connection.Connection.turn

    def counted(self: connection.Connection, timeout_s: float) -> None:
        nonlocal turns
        turns += 1
        turn(self, timeout_s)

    monkeypatch.setattr(connection.Connection, "turn", counted)
    habits = Habits()
    habits.connack = packet(CONNACK, b"\0\0\3\x13\0\0")
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: link.connected)
            assert await link.publish(MESSAGE) == 0
            await asyncio.sleep(0.2)
            before = turns
            await asyncio.sleep(0.2)
            assert turns - before < 5
            assert await link.publish(MESSAGE) == 0


def limited(limit: int) -> bytes:
    """A CONNACK with this Maximum Packet Size."""
    return packet(CONNACK, b"\0\0\5\x27" + limit.to_bytes(4, "big"))


@pytest.mark.parametrize("size", [1, 100, 20_000])
async def test_what_is_above_the_limit_of_the_broker_is_not_sent_and_told_once(tmp_path, size):
    message = Message(
        topic="edged/ä",
        payload=bytes(size),
        content_type="application/json",
        content_encoding="zstd",
        expiry_s=60,
        correlation=b"123",
    )
    habits, told = Habits(), []
    with served(habits) as port:
        async with connected(port, tmp_path, warn=told.append) as (link, until):
            await until(lambda: link.connected)
            assert await link.publish(message) == 0
            taken = habits.largest
            habits.connack = limited(taken)
            habits.hang_up()
            await until(lambda: link.connected and habits.connections == 2)
            assert await link.publish(message) == 0, "just as large as the broker takes"
            assert not link.too_large
            habits.connack = limited(taken - 1)
            habits.hang_up()
            await until(lambda: link.connected and habits.connections == 3)
            for _ in range(3):
                assert await link.publish(message) == TOO_LARGE
            assert await link.publish(MESSAGE) == 0, "what fits goes on"
            assert (habits.published, habits.connections) == (3, 3)
            assert told == [link.too_large]
            assert f"a message of {taken} bytes" in told[0]
            assert f"of up to {taken - 1} bytes" in told[0]
            larger = msgspec.structs.replace(message, payload=bytes(size + 1))
            assert await link.publish(larger) == TOO_LARGE
            assert len(told) == 2
            assert f"a message of {taken + 1} bytes" in told[1]


async def test_a_broker_with_two_limits_is_told_of_once_for_each(tmp_path):
    large, larger = (Message(topic="t", payload=bytes(size)) for size in (5000, 9000))
    habits, told = Habits(), []
    habits.connack = limited(8000)
    habits.puback = lambda number: packet(PUBACK, number + bytes([TOO_LARGE, 0]))
    with served(habits) as port:
        async with connected(port, tmp_path, warn=told.append) as (link, until):
            await until(lambda: link.connected)
            for _ in range(3):
                assert await link.publish(large) == await link.publish(larger) == TOO_LARGE
    assert ["refuses it" in each for each in told] == [True, False]
    assert ["of up to 8000 bytes" in each for each in told] == [False, True]


async def test_a_broker_that_names_another_limit_each_time_is_not_remembered_for_ever(tmp_path):
    async with connected(1, tmp_path, warn=lambda _: None) as (link, _):
        for limit in range(100):
            link._leave_out(asyncio.get_running_loop().create_future(), 200, f"takes {limit}")
        assert len(link._warned) == mqtt._MOST_LIMITS


@pytest.mark.parametrize("size", [3000, 8 * 2**20], ids=["whole", "while it is written"])
async def test_what_a_broker_ends_the_connection_for_is_not_sent_again_for_a_day(tmp_path, monkeypatch, size):
    monkeypatch.setattr(mqtt, "_BACKOFF_LEAST_S", 0.02)
    message = Message(topic="t", payload=bytes(size))
    habits, told = Habits(), []
    habits.most_bytes = 2000
    with served(habits) as port:
        async with connected(port, tmp_path, warn=told.append) as (link, until):
            await until(lambda: link.connected)
            with pytest.raises(NotSentError, match="the connection was lost: Packet too large"):
                await link.publish(message)
            await until(lambda: link.connected)
            for _ in range(3):
                assert await link.publish(message) == TOO_LARGE
            assert await link.publish(MESSAGE) == 0, "what fits goes on"
            assert habits.connections == 2
            assert told == [link.too_large]
            assert f"ended the connection for one of {size_of(message)} bytes" in told[0]

            between = msgspec.structs.replace(message, payload=bytes(2500))
            with pytest.raises(NotSentError):
                await link.publish(between)
            await until(lambda: link.connected)
            assert await link.publish(between) == TOO_LARGE, "what was learned is smaller now"

            monkeypatch.setattr(mqtt, "_REMEMBER_S", 0.0)
            habits.most_bytes = 2**28
            habits.hang_up()  # the broker reads by the old limit still
            await until(lambda: habits.connections == 4 and link.connected)
            assert await link.publish(message) == 0, "a day later the broker may take more"


async def test_a_connection_that_ends_without_a_word_may_be_a_bad_link_and_gives_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr(mqtt, "_BACKOFF_LEAST_S", 0.02)
    habits = Habits()
    puback = habits.puback

    def hang_up(_number: bytes) -> bytes:
        habits.hang_up()
        return b""

    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            habits.puback = hang_up
            for _ in range(2):
                await until(lambda: link.connected)
                with pytest.raises(NotSentError):
                    await link.publish(MESSAGE)
            habits.puback = puback
            await until(lambda: link.connected)
            assert await link.publish(MESSAGE) == 0


async def test_why_the_broker_ended_the_connection_is_told(tmp_path):
    habits = Habits()
    habits.puback = lambda _number: packet(DISCONNECT, b"\x95\0")
    with served(habits) as port:
        async with connected(port, tmp_path) as (link, until):
            await until(lambda: link.connected)
            with pytest.raises(NotSentError, match="the connection was lost: Packet too large"):
                await link.publish(MESSAGE)


async def test_nobody_there_is_told_and_tried_again(tmp_path):
    port = free_port()
    async with connected(port, tmp_path) as (link, until):
        await until(lambda: f"127.0.0.1:{port}: [Errno 111]" in link.problem)
        with pytest.raises(NotSentError):
            await link.publish(MESSAGE)
