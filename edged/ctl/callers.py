"""Asks a model again and again, and writes down what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import msgspec

from edged import clock
from edged._pb.inference import grpc_service_pb2 as pb
from edged.ctl.client import OPTIONS
from edged.ctl.measured import Measured
from edged.errors import Code, EdgedError
from edged.rpc.status import CODE_KEY

# Callers that share a connection: edged bounds the calls of each, and the connections of a process.
_CALLERS_A_CONNECTION = 128

# Without it, all channels to one address are one connection.
_OPTIONS = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))

_METHOD = "/inference.GRPCInferenceService/ModelInfer"

# Requests under way at a time where they are sent at a rate, whatever comes of them.
MAX_UNDER_WAY = 1000

# A caller that was refused asks again after this, as applications should.
_AFTER_AN_ERROR_S = 0.01

# Sensors are slow, and heat is slower.
_HEAT_EVERY_S = 5.0


class Plan(msgspec.Struct, frozen=True):
    """How a model is asked: by `callers` that each wait for their answer or, where `rate` is set, so often a second."""

    seconds: float
    timeout_s: float
    callers: int
    rate: float = 0.0


class Load:
    """One run."""

    def __init__(self, address: str, requests: Sequence[bytes], plan: Plan, heat: Callable[[], float | None]) -> None:
        """`requests` are sent in turn; `heat` reads the hottest sensor, in °C, and may take its time."""
        self.measured = Measured()
        self._address = address
        self._requests = itertools.cycle(requests)
        self._plan = plan
        self._heat = heat
        self._began = 0.0

    async def run(self) -> None:
        """Until the time is over. Raises EdgedError (not_running) when edged goes away; what was measured stays."""
        plan = self._plan
        connections = -(-(MAX_UNDER_WAY if plan.rate else plan.callers) // _CALLERS_A_CONNECTION)
        async with contextlib.AsyncExitStack() as stack:
            calls = [
                (await stack.enter_async_context(grpc.aio.insecure_channel(self._address, _OPTIONS))).unary_unary(
                    _METHOD, response_deserializer=pb.ModelInferResponse.FromString
                )
                for _ in range(connections)
            ]
            self._began = clock.monotonic()
            heat = asyncio.create_task(self._feel())
            try:
                async with asyncio.TaskGroup() as group:
                    if plan.rate:
                        group.create_task(self._at_rate(calls, group))
                    else:
                        for number in range(plan.callers):
                            group.create_task(self._call_again(calls[number % connections]))
                self.measured.lasted_s = max(self.measured.lasted_s, plan.seconds)
            except* EdgedError as gone:
                raise gone.exceptions[0] from None
            finally:
                heat.cancel()
                await asyncio.wait([heat])

    @property
    def _now(self) -> float:
        return clock.monotonic() - self._began

    async def _call_again(self, call: Any) -> None:
        """A caller that asks again when it has its answer."""
        while (now := self._now) < self._plan.seconds:
            if not await self._ask(call, now):
                await asyncio.sleep(_AFTER_AN_ERROR_S)

    async def _at_rate(self, calls: Sequence[Any], group: asyncio.TaskGroup) -> None:
        """Callers that come whenever they come: how long they wait counts from when they were due."""
        under_way: set[asyncio.Task[bool]] = set()
        for number in itertools.count():
            due = number / self._plan.rate
            if due >= self._plan.seconds:
                return
            if (early := due - self._now) > 0:
                await asyncio.sleep(early)
            if len(under_way) >= MAX_UNDER_WAY:
                self.measured.not_sent(self._now)
                if not number % 100:  # far behind: those under way get a turn
                    await asyncio.sleep(0)
                continue
            task = group.create_task(self._ask(calls[number % len(calls)], due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    async def _ask(self, call: Any, since: float) -> bool:
        """One request; whether it was answered."""
        try:
            await call(next(self._requests), timeout=self._plan.timeout_s)
        except grpc.aio.AioRpcError as error:
            self.measured.failed(self._now, _code(error))
            return False
        now = self._now
        self.measured.answered(now, now - since)
        return True

    async def _feel(self) -> None:
        while True:
            if (celsius := await asyncio.to_thread(self._heat)) is not None:
                self.measured.heat(self._now, celsius)
            await asyncio.sleep(_HEAT_EVERY_S)


def _code(error: grpc.aio.AioRpcError) -> str:
    """edged's word for it, or gRPC's. Raises EdgedError (not_running) when nobody was there to say one."""
    for key, value in error.trailing_metadata() or ():
        if key == CODE_KEY:
            return str(value)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        raise EdgedError(Code.NOT_RUNNING, "edged went away while it was asked", "see `journalctl -u edged`")
    return str(error.code().name).lower()
