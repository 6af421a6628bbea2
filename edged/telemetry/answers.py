"""What became of commands, told on `result` and where the command wants it; kept until there is a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import msgspec

from edged.telemetry.messages import Result
from edged.telemetry.mqtt import Message, NotSentError
from edged.telemetry.orders import Order
from edged.telemetry.recorder import NotKeptError, Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.sync import JSON, Transport

_MAX_RESULT_BYTES = 60 * 1024
_EXPIRY_S = 86_400
# What is told once and nowhere kept: that a command was accepted, or why one was never taken.
_MAX_PASSING = 32


class Answers:
    """Passing ones wait in memory; those of orders wait in the spool until the broker has them."""

    def __init__(self, recorder: Recorder, transport: Transport) -> None:
        self._recorder = recorder
        self._transport = transport
        self._passing: deque[Message] = deque(maxlen=_MAX_PASSING)
        self._news = asyncio.Event()

    def news(self) -> None:
        """The connection came or went, or an order was answered."""
        self._news.set()

    def say(self, result: Result, topics: Sequence[str], correlation: bytes) -> None:
        """Tells a passing one."""
        self._passing.extend(_messages(result, topics, correlation))
        self._news.set()

    async def run(self) -> None:
        """Tells until it is cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                while self._passing and self._transport.connected:
                    await self._transport.publish(self._passing[0])
                    self._passing.popleft()
                if self._transport.connected:
                    for order in await self._recorder.do(_answered):
                        await self._tell(order)
            except (NotSentError, NotKeptError):  # the next connection begins anew
                continue

    async def _tell(self, order: Order) -> None:
        if order.answer is not None:
            for message in _messages(order.answer, order.topics, order.correlation):
                await self._transport.publish(message)
        await self._recorder.do(_end, order.command.nonce)


def _messages(result: Result, topics: Sequence[str], correlation: bytes) -> list[Message]:
    payload = msgspec.json.encode(result)
    if len(payload) > _MAX_RESULT_BYTES:
        payload = msgspec.json.encode(msgspec.structs.replace(result, details={"left_out": "too large"}))
    return [
        Message(topic=topic, payload=payload, content_type=JSON, expiry_s=_EXPIRY_S, correlation=correlation)
        for topic in topics
    ]


def _answered(spool: Spool) -> list[Order]:
    return [order for order in spool.orders.all() if order.answer is not None]


def _end(spool: Spool, nonce: str) -> None:
    spool.orders.end(nonce)
