"""The Open Inference Protocol's six calls, and inference over a stream."""

from __future__ import annotations

import functools
from collections.abc import Callable

import grpc

from edged import __version__
from edged._pb.inference import grpc_service_pb2 as pb
from edged.rpc.answer import write_answer
from edged.rpc.server import Methods, decode, duplex, unary
from edged.rpc.shm import SharedMemory
from edged.rpc.stream import Streams
from edged.rpc.wire import read_request
from edged.serving.request import Answer, Call
from edged.serving.service import Service
from edged.types import Level

SERVICE = "inference.GRPCInferenceService"


class Inference:
    """`inference.GRPCInferenceService`."""

    def __init__(self, service: Service, best_priority: int = 1) -> None:
        """`best_priority`: what requests get at most that come this way."""
        self._service = service
        self._best_priority = best_priority
        self._streams = Streams(self._infer)

    def methods(self) -> Methods:
        """The calls by name."""
        return {
            "ServerLive": unary(self._server_live),
            "ServerReady": unary(self._server_ready),
            "ModelReady": unary(self._model_ready),
            "ServerMetadata": unary(self._server_metadata),
            "ModelMetadata": unary(self._model_metadata),
            "ModelInfer": unary(self._model_infer),
            "ModelStreamInfer": duplex(self._streams.converse),
            **SharedMemory(self._service).methods(),
        }

    async def _server_live(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=self._service.ready()).SerializeToString()

    async def _model_ready(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ModelReadyRequest, data)
        ready = self._service.model_ready(request.name, request.version)
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    async def _server_metadata(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.ServerMetadataRequest, data)
        return pb.ServerMetadataResponse(
            name="edged", version=__version__, extensions=["system_shared_memory"]
        ).SerializeToString()

    async def _model_metadata(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ModelMetadataRequest, data)
        resident = self._service.find(request.name, request.version)
        manifest = resident.manifest
        variant = resident.variant or manifest.variants[0]
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=manifest.name,
            versions=[str(revision) for revision in self._service.versions(manifest.name)],
            platform=variant.runtime,
            inputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in manifest.inputs],
            outputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in manifest.outputs],
            properties={"edged_digest": resident.digest, "edged_variant": variant.name},
        ).SerializeToString()

    async def _model_infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        call = read_request(data)
        render = functools.partial(write_answer, identity=call.id, level=Level.NOMINAL)
        return await self._infer(call, context.time_remaining(), render)

    async def _infer(self, call: Call, remaining_s: float | None, render: Callable[[Answer], bytes]) -> bytes:
        return await self._service.infer(call, remaining_s, render, self._best_priority)
