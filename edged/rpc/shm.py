"""Triton's calls for system shared memory: regions by name, which tensors of requests may then lie in.

They are answered on the sockets alone, whose groups say who shares memory: over TCP nobody can be told from another.
"""

from __future__ import annotations

import grpc

from edged._pb.inference import grpc_service_pb2 as pb
from edged.errors import Code, EdgedError
from edged.rpc.server import Methods, decode, unary
from edged.serving.service import Service

_CALLS = ("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister")


class SharedMemory:
    """The calls `SystemSharedMemory…`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def methods(self) -> Methods:
        """The calls by name."""
        return dict(zip(_CALLS, map(unary, (self._status, self._register, self._unregister)), strict=True))

    async def _status(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        name = decode(pb.SystemSharedMemoryStatusRequest, data).name
        regions = self._service.regions
        found = [regions.find(name)] if name else regions.all()
        reply = pb.SystemSharedMemoryStatusResponse()
        for each in found:
            status = reply.regions[each.name]
            status.name, status.key, status.offset, status.byte_size = each.name, f"/{each.key}", each.begin, each.size
        return reply.SerializeToString()

    async def _register(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        asked = decode(pb.SystemSharedMemoryRegisterRequest, data)
        self._service.regions.register(asked.name, asked.key, asked.offset, asked.byte_size)
        return pb.SystemSharedMemoryRegisterResponse().SerializeToString()

    async def _unregister(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        await self._service.regions.unregister(decode(pb.SystemSharedMemoryUnregisterRequest, data).name)
        return pb.SystemSharedMemoryUnregisterResponse().SerializeToString()


def elsewhere(socket: str) -> Methods:
    """What answers these calls where they are not offered."""

    async def call(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
        raise not_here(socket)

    return dict.fromkeys(_CALLS, unary(call))


def not_here(socket: str) -> EdgedError:
    """What a caller is told who wants to share memory by a way in that has none."""
    return EdgedError(
        Code.NOT_PERMITTED,
        "memory is not shared over TCP",
        f"ask {socket}, whose group says who may; or send the tensors in the request",
    )
