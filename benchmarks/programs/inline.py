"""The least server that computes: grpc.aio on uvloop with the model in its own process, and nothing around it.

It reads no message: the end of a request that is long enough is taken for the input's bytes, and for a shorter one
the input that it has is used, as if memory were shared. The answer is as many bytes as the path says. Started as
`python -m benchmarks.programs.inline MODEL REQUEST SOCKET`; a call is `/floor.Floor/<bytes>`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import uvloop

from benchmarks.programs import echo
from benchmarks.programs.engine import inputs, open_session


class Computed(echo.Handler):
    """Raw bytes in, raw bytes out, and the model between."""

    def __init__(self, session: onnxruntime.InferenceSession, request: bytes) -> None:
        super().__init__()
        self._session = session
        ((self._name, self._input),) = inputs(request).items()

    def method(self, answer: bytes) -> grpc.RpcMethodHandler:
        """Computes on the loop: where nothing else is to be done, a thread would only cost more."""
        size, has = self._input.nbytes, self._input

        async def call(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
            array = has
            if len(request) >= size:
                array = np.frombuffer(request, has.dtype, has.size, len(request) - size).reshape(has.shape)
            self._session.run(None, {self._name: array})
            return answer

        return grpc.unary_unary_rpc_method_handler(call)


if __name__ == "__main__":
    model, asked, socket = sys.argv[1:]
    uvloop.run(echo.main(socket, Computed(open_session(model), Path(asked).read_bytes())))
