"""KServe's gRPC server over ONNX models.

Started as `kserve_server.py PORT REST_PORT NAME=FILE …`, by the Python of the virtual environment that KServe is
installed in. It is started as its own documents do, with its defaults: it listens on all addresses, on asyncio's own
loop, writes two lines of log a request, and has an idle REST server beside it.
"""

from __future__ import annotations

import sys
from typing import Any

import kserve
import onnxruntime

DATATYPES = {"tensor(float)": "FP32"}


class Onnx(kserve.Model):  # type: ignore[misc]
    """One model, run where the request arrives."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._outputs = [(node.name, DATATYPES[node.type]) for node in self._session.get_outputs()]
        self.ready = True

    async def predict(self, payload: kserve.InferRequest, *_: Any, **__: Any) -> kserve.InferResponse:
        """Runs one request."""
        results = self._session.run(None, {each.name: each.as_numpy() for each in payload.inputs})
        outputs = []
        for (name, datatype), array in zip(self._outputs, results, strict=True):
            output = kserve.InferOutput(name, list(array.shape), datatype)
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return kserve.InferResponse(payload.id, self.name, outputs)


def main(port: str, rest_port: str, models: dict[str, str]) -> None:
    """Serves until the process is ended."""
    server = kserve.ModelServer(http_port=int(rest_port), grpc_port=int(port))
    server.start([Onnx(name, file) for name, file in models.items()])


if __name__ == "__main__":
    main(*sys.argv[1:3], dict(argument.split("=", 1) for argument in sys.argv[3:]))
