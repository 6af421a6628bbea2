"""What became of commands, told on `result` and where the command wants it; kept until there is a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

import msgspec

from edged.telemetry.again import Again
from edged.telemetry.messages import Result
from edged.telemetry.orders import Order
from edged.telemetry.packet import REFUSED, TOO_LARGE, Message, NotSentError
from edged.telemetry.recorder import NotKeptError, Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.sync import JSON, Transport

_MAX_RESULT_BYTES = 60 * 1024
_EXPIRY_S = 86_400
# What is told once and nowhere kept: that a command was accepted, or why one was never taken.
_MAX_PASSING = 32


class _Passing(msgspec.Struct, frozen=True):
    result: Result
    topics: tuple[str, ...]
    correlation: bytes


class Answers:
    """Passing ones wait in memory; those of orders wait in the spool until the broker has them."""

    def __init__(self, recorder: Recorder, transport: Transport) -> None:
        self._recorder = recorder
        self._transport = transport
        self._passing: deque[_Passing] = deque(maxlen=_MAX_PASSING)
        self._news = asyncio.Event()
        self._again = Again(self._news.set)
        self._unread = False
        """Whether the spool did not tell what it has, or took nothing, when it was asked last."""

    def news(self) -> None:
        """The connection came or went, or an order was answered."""
        self._news.set()

    def spool_works(self) -> None:
        """The spool takes something: what it has is told now, where it could not be before."""
        if self._unread:
            self._news.set()

    def say(self, result: Result, topics: Sequence[str], correlation: bytes) -> None:
        """Tells a passing one on these topics, of which the first is the device's own."""
        self._passing.append(_Passing(result, tuple(topics), correlation))
        self._news.set()

    async def run(self) -> None:
        """Tells until it is cancelled."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if not self._transport.connected:
                    continue
                self._unread = False
                try:
                    if await self._tell():
                        self._again.reset()
                    else:
                        self._again.later()
                except NotSentError:  # the next connection begins anew
                    continue
                except NotKeptError:  # and so does the next row that the spool keeps
                    self._unread = True
        finally:
            self._again.reset()

    async def _tell(self) -> bool:
        """Tells all there is; whether the broker has it now. Raises NotSentError, NotKeptError."""
        all_told = True
        for each in list(self._passing):
            if await self._publish(each):
                with contextlib.suppress(ValueError):  # newer ones have pushed it out meanwhile
                    self._passing.remove(each)
            else:
                all_told = False
        for order in await self._recorder.do(_answered):
            assert order.answer is not None  # noqa: S101 - narrows the type
            if await self._publish(_Passing(order.answer, order.topics, order.correlation)):
                await self._recorder.do(_end, order.command.nonce)
            else:
                all_told = False
        return all_told

    async def _publish(self, told: _Passing) -> bool:
        """Whether the broker has it on the device's own topic. Where else it was wanted, it may be refused for good.

        What no packet of this broker's can carry even without its details is not tried again either.
        """
        own, *others = told.topics
        code = await self._reason(told, own)
        if code >= REFUSED and code != TOO_LARGE:
            return False
        for topic in others:
            await self._reason(told, topic)
        return True

    async def _reason(self, told: _Passing, topic: str) -> int:
        """The broker's, for the whole answer, or for one without details where it takes no packet of that size."""
        code = await self._transport.publish(_message(told, topic))
        if code == TOO_LARGE:
            code = await self._transport.publish(_message(_without_details(told), topic))
        return code


def _message(told: _Passing, topic: str) -> Message:
    payload = msgspec.json.encode(told.result)
    if len(payload) > _MAX_RESULT_BYTES:
        payload = msgspec.json.encode(_without_details(told).result)
    return Message(topic=topic, payload=payload, content_type=JSON, expiry_s=_EXPIRY_S, correlation=told.correlation)


def _without_details(told: _Passing) -> _Passing:
    short = msgspec.structs.replace(told.result, details={"left_out": "too large"})
    return msgspec.structs.replace(told, result=short)


def _answered(spool: Spool) -> list[Order]:
    return [order for order in spool.orders.all() if order.answer is not None]


def _end(spool: Spool, nonce: str) -> None:
    spool.orders.end(nonce)
