"""The floor: a bare grpc.aio server on uvloop. It takes any request and answers with as many bytes as its path says.

Started as `python -m benchmarks.programs.echo SOCKET`; a call is `/floor.Floor/<bytes>`.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import grpc
import uvloop

from benchmarks import notify
from benchmarks.servers import FLOOR

MAX_BYTES = 64 * 1024 * 1024


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Raw bytes in, raw bytes out."""

    def __init__(self) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The method of a path."""
        path = handler_call_details.method
        if path not in self._methods and path.startswith(FLOOR):
            self._methods[path] = self.method(bytes(int(path.removeprefix(FLOOR))))
        return self._methods.get(path)

    def method(self, answer: bytes) -> grpc.RpcMethodHandler:
        """What gives this answer to everything."""

        async def call(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
            return answer

        return grpc.unary_unary_rpc_method_handler(call)


async def main(socket: str, handler: Handler) -> None:
    """Serves until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_BYTES), ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    notify.ready()
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Handler()))
