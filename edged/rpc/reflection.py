"""Server reflection: lets a client learn the protocol from the server.

Both names are answered: v1 is v1alpha with another package, the messages' bytes are the same
(github.com/grpc/grpc-proto, grpc/reflection).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as pb

from edged.errors import Code, EdgedError
from edged.rpc.server import Methods, chat, decode

# Whoever asks, asks once and goes; nobody needs this many conversations at a time.
_MAX_CHATS = 64

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def methods(services: Sequence[str]) -> Methods:
    """The call by name, for a server that offers `services`."""
    names = [*services, SERVICES[1]]
    servicer = reflection.aio.ReflectionServicer(names, _pool(names))

    chats: set[grpc.aio.ServicerContext] = set()

    async def info(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async def decoded() -> AsyncIterator[pb.ServerReflectionRequest]:
            async for data in requests:
                yield decode(pb.ServerReflectionRequest, data)

        if len(chats) >= _MAX_CHATS:
            raise EdgedError(Code.OVERLOADED, f"{len(chats)} callers ask for reflection already", "try again later")
        chats.add(context)
        try:
            async for reply in servicer.ServerReflectionInfo(decoded(), context):
                yield reply.SerializeToString()
        finally:
            chats.discard(context)

    return {"ServerReflectionInfo": chat(info)}


def _pool(services: Sequence[str]) -> DescriptorPool:
    """What these services are made of, and nothing else that this process happens to know."""
    known = descriptor_pool.Default()
    pool = DescriptorPool()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        pool.AddSerializedFile(file.serialized_pb)

    for service in services:
        add(known.FindServiceByName(service).file)
    return pool
