"""Triton's calls for system shared memory: regions by name, which tensors of requests may then lie in."""

from __future__ import annotations

import grpc

from edged._pb.inference import grpc_service_pb2 as pb
from edged.rpc.server import Methods, decode, unary
from edged.serving.service import Service


class SharedMemory:
    """The calls `SystemSharedMemory…`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def methods(self) -> Methods:
        """The calls by name."""
        return {
            "SystemSharedMemoryStatus": unary(self._status),
            "SystemSharedMemoryRegister": unary(self._register),
            "SystemSharedMemoryUnregister": unary(self._unregister),
        }

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
