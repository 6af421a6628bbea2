"""gRPC health v1, for the server (`""` and each service's name) and for each model by its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import grpc
from grpc_health.v1 import health_pb2 as pb

from edged.changes import Changes
from edged.errors import Code, EdgedError
from edged.rpc.server import Methods, decode, stream, unary
from edged.serving.service import Service

SERVICE = "grpc.health.v1.Health"

# At a time, on one server: each takes some 23 KiB, and 40 µs of each change. Who comes on top is let in all the same,
# and the oldest gives way: on a Unix socket gRPC tells no caller from another, and one who has all must not keep the
# others from watching. Over TCP it tells connections, and the one that has most gives way.
_MOST_WATCHES = 256


class _Watch:
    """One that is under way."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self._gives_way = False
        self._waiting: asyncio.Timeout | None = None

    async def wait(self, changes: Changes, count: int) -> None:
        """Waits until there were more than `count` changes. Raises EdgedError (overloaded) once it has given way."""
        with contextlib.suppress(TimeoutError):
            if not self._gives_way:
                async with asyncio.timeout(None) as self._waiting:
                    await changes.after(count)
        self._waiting = None
        if self._gives_way:
            raise EdgedError(
                Code.OVERLOADED,
                f"more than {_MOST_WATCHES} callers watch, and this one has watched for longest",
                "watch again, once for all that one process serves, or use Check",
            )

    def give_way(self) -> None:
        """Ends it."""
        self._gives_way = True
        if self._waiting is not None:
            self._waiting.reschedule(0)


class Health:
    """`grpc.health.v1.Health`."""

    def __init__(self, service: Service, changes: Changes, services: Sequence[str]) -> None:
        self._service = service
        self._changes = changes
        self._services = ("", *services)
        self._watches: list[_Watch] = []
        """Oldest first."""

    def methods(self) -> Methods:
        """The calls by name."""
        return {"Check": unary(self._check), "Watch": stream(self._watch)}

    def _status(self, name: str) -> pb.HealthCheckResponse.ServingStatus:
        if name in self._services:
            ready = self._service.ready()
        else:
            try:
                ready = self._service.model_ready(name, "")
            except EdgedError:
                return pb.HealthCheckResponse.SERVICE_UNKNOWN
        return pb.HealthCheckResponse.SERVING if ready else pb.HealthCheckResponse.NOT_SERVING

    async def _check(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        name = decode(pb.HealthCheckRequest, data).service
        status = self._status(name)
        if status == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            raise EdgedError(
                Code.MODEL_NOT_FOUND, f"there is no service or model {name[:64]!r}", "leave it empty for the server"
            )
        reply: bytes = pb.HealthCheckResponse(status=status).SerializeToString()
        return reply

    async def _watch(self, data: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        name = decode(pb.HealthCheckRequest, data).service
        watch = self._begin(context.peer())
        try:
            last = None
            while True:
                count = self._changes.count
                status = self._status(name)
                if status != last:
                    yield pb.HealthCheckResponse(status=status).SerializeToString()
                    last = status
                await watch.wait(self._changes, count)
        finally:
            if watch in self._watches:
                self._watches.remove(watch)

    def _begin(self, caller: str) -> _Watch:
        """Makes a watch, and room for it."""
        watch = _Watch(caller)
        self._watches.append(watch)
        if len(self._watches) > _MOST_WATCHES:
            [(most, _)] = Counter(each.caller for each in self._watches).most_common(1)
            oldest = next(each for each in self._watches if each.caller == most)
            self._watches.remove(oldest)
            oldest.give_way()
        return watch
