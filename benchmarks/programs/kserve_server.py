"""KServe's gRPC server over ONNX models.

Started as `kserve_server.py PORT NAME=FILE …`, by the Python of the virtual environment that KServe is installed in.
Its parts as its own start puts them together, but on loopback, on uvloop, and without the REST server beside it.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import kserve
import onnxruntime
import uvloop
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor, LoggingInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

MAX_BYTES = 64 * 1024 * 1024
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


async def main(port: str, models: dict[str, str]) -> None:
    """Serves until the process is ended."""
    repository = kserve.ModelRepository()
    for name, file in models.items():
        repository.update(Onnx(name, file))
    server = grpc.aio.server(
        ThreadPoolExecutor(max_workers=4),
        interceptors=(LoggingInterceptor(), ExceptionToStatusInterceptor()),
        options=[("grpc.max_send_message_length", MAX_BYTES), ("grpc.max_receive_message_length", MAX_BYTES)],
    )
    extension = ModelRepositoryExtension(model_registry=repository)
    services.add_GRPCInferenceServiceServicer_to_server(
        InferenceServicer(DataPlane(model_registry=repository), extension), server
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], dict(argument.split("=", 1) for argument in sys.argv[2:])))
