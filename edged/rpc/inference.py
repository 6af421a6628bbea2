"""The Open Inference Protocol: its six calls, over the services."""

from __future__ import annotations

import functools
from collections.abc import Callable

import grpc

from edged import __version__
from edged._pb.inference import grpc_service_pb2 as pb
from edged.rpc import wire
from edged.rpc.server import Methods, decode, unary
from edged.serving.service import Service
from edged.types import Level

SERVICE = "inference.GRPCInferenceService"


class Inference:
    """`inference.GRPCInferenceService`."""

    def __init__(self, service: Service, level: Callable[[], Level] = lambda: Level.NOMINAL) -> None:
        """`level`: what each answer says of how hard the device is pressed."""
        self._service = service
        self._level = level

    def methods(self) -> Methods:
        """The calls by name."""
        return {
            "ServerLive": unary(self._server_live),
            "ServerReady": unary(self._server_ready),
            "ModelReady": unary(self._model_ready),
            "ServerMetadata": unary(self._server_metadata),
            "ModelMetadata": unary(self._model_metadata),
            "ModelInfer": unary(self._model_infer),
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
        return pb.ServerMetadataResponse(name="edged", version=__version__, extensions=[]).SerializeToString()

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
        call = wire.read_request(data)
        render = functools.partial(wire.write_answer, identity=call.id, level=self._level())
        return await self._service.infer(call, context.time_remaining(), render)
