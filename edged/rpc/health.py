"""gRPC health v1, for the server (`""` and each service's name) and for each model by its name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc
from grpc_health.v1 import health_pb2 as pb

from edged.changes import Changes
from edged.errors import Code, EdgedError
from edged.rpc.server import Methods, decode, stream, unary
from edged.serving.service import Service

SERVICE = "grpc.health.v1.Health"


class Health:
    """`grpc.health.v1.Health`."""

    def __init__(self, service: Service, changes: Changes, services: Sequence[str]) -> None:
        self._service = service
        self._changes = changes
        self._services = ("", *services)

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

    async def _watch(self, data: bytes, _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        # As many as there may be calls, of which no process takes all: each takes some 20 KiB, and 40 µs of a change.
        name = decode(pb.HealthCheckRequest, data).service
        last = None
        while True:
            count = self._changes.count
            status = self._status(name)
            if status != last:
                yield pb.HealthCheckResponse(status=status).SerializeToString()
                last = status
            await self._changes.after(count)
