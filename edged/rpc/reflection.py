"""Server reflection: lets a client learn the protocol from the server.

Both names are answered: v1 is v1alpha with another package, the messages' bytes are the same
(github.com/grpc/grpc-proto, grpc/reflection).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as pb

from edged.rpc.server import Methods, chat, decode

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def methods(services: Sequence[str]) -> Methods:
    """The call by name, for a server that offers `services`."""
    servicer = reflection.aio.ReflectionServicer([*services, SERVICES[1]])

    async def info(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async def decoded() -> AsyncIterator[pb.ServerReflectionRequest]:
            async for data in requests:
                yield decode(pb.ServerReflectionRequest, data)

        async for reply in servicer.ServerReflectionInfo(decoded(), context):
            yield reply.SerializeToString()

    return {"ServerReflectionInfo": chat(info)}
