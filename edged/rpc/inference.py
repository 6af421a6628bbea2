"""The calls that ask models, and about them: those of the Open Inference Protocol, and what Triton adds to these."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import grpc

from edged import __version__
from edged._pb.inference import grpc_service_pb2 as pb
from edged.bundle.manifest import Manifest
from edged.errors import Code, EdgedError
from edged.rpc import shm
from edged.rpc.answer import write_answer
from edged.rpc.model_config import model_config, platform
from edged.rpc.model_statistics import model_statistics
from edged.rpc.server import Methods, Unary, decode, duplex, unary
from edged.rpc.stream import Streams
from edged.rpc.wire import read_request
from edged.serving.request import Answer, Call
from edged.serving.service import Service

SERVICE = "inference.GRPCInferenceService"

# By the names that Triton gives its extensions of the protocol.
_EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
    "logging",
)

# Labels that take more are not told with the metadata, which is asked for often.
_MAX_LABELS_BYTES = 64 * 1024

_NOT_CARRIED_OUT = (
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
)


class Inference:
    """`inference.GRPCInferenceService`."""

    def __init__(self, service: Service, max_message_bytes: int, best_priority: int = 1, *, socket: str = "") -> None:
        """`best_priority`: what requests get at most that come this way.

        `socket`: where memory is shared instead; empty: here.
        """
        self._service = service
        self._max_message_bytes = max_message_bytes
        self._best_priority = best_priority
        self._socket = socket
        self._streams = Streams(self._read, self._infer, lambda: service.level)

    def methods(self) -> Methods:
        """The calls by name."""
        return {
            "ServerLive": unary(self._server_live),
            "ServerReady": unary(self._server_ready),
            "ModelReady": unary(self._model_ready),
            "ServerMetadata": unary(self._server_metadata),
            "ModelMetadata": unary(self._model_metadata),
            "ModelInfer": unary(self._model_infer),
            "ModelConfig": unary(self._model_config),
            "ModelStatistics": unary(self._model_statistics),
            "ModelStreamInfer": duplex(self._streams.converse),
            **{name: unary(_refused(name)) for name in _NOT_CARRIED_OUT},
            **(shm.elsewhere(self._socket) if self._socket else shm.SharedMemory(self._service).methods()),
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
        return pb.ServerMetadataResponse(name="edged", version=__version__, extensions=_EXTENSIONS).SerializeToString()

    async def _model_metadata(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ModelMetadataRequest, data)
        resident = self._service.find(request.name, request.version)
        manifest = resident.manifest
        variant = resident.variant or manifest.variants[0]
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=manifest.name,
            versions=[str(revision) for revision in self._service.versions(manifest.name)],
            platform=platform(variant),
            inputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in manifest.inputs],
            outputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in manifest.outputs],
            properties={"edged_digest": resident.digest, "edged_variant": variant.name, **_properties(manifest)},
        ).SerializeToString()

    async def _model_config(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ModelConfigRequest, data)
        resident = self._service.find(request.name, request.version)
        variant = resident.variant or resident.manifest.variants[0]
        config = model_config(resident.manifest, variant, resident.digest)
        return pb.ModelConfigResponse(config=config).SerializeToString()

    async def _model_statistics(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ModelStatisticsRequest, data)
        found = self._service.residents(request.name, request.version)
        return pb.ModelStatisticsResponse(
            model_stats=[model_statistics(each, self._service.queue(each).statistics) for each in found]
        ).SerializeToString()

    async def _model_infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        call = self._read(data)
        render = functools.partial(write_answer, identity=call.id, level=self._service.level)
        return await self._infer(call, context.time_remaining(), render)

    def _read(self, data: bytes) -> Call:
        """Raises EdgedError: message_too_large, or as `read_request` does."""
        if len(data) > self._max_message_bytes:
            raise EdgedError(
                Code.MESSAGE_TOO_LARGE,
                f"the request takes {len(data)} bytes, at most {self._max_message_bytes} are taken",
                "send less in one request, put its tensors into shared memory, or raise listen.max_message_mib",
            )
        return read_request(data)

    async def _infer(self, call: Call, remaining_s: float | None, render: Callable[[Answer], bytes]) -> bytes:
        """Raises EdgedError: not_permitted, or as `Service.infer` does."""
        if self._socket and call.shares_memory:
            raise shm.not_here(self._socket)
        return await self._service.infer(call, remaining_s, render, self._best_priority)


def _properties(manifest: Manifest) -> dict[str, str]:
    """What the message has no field for."""
    labels = {f"edged_labels.{spec.name}": json.dumps(spec.labels) for spec in manifest.outputs if spec.labels}
    return {
        "edged_max_batch_size": str(manifest.max_batch_size),
        **{name: text for name, text in labels.items() if len(text) <= _MAX_LABELS_BYTES},
    }


def _refused(name: str) -> Unary:
    async def call(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
        raise EdgedError(Code.UNSUPPORTED, f"{name} is not supported", "ServerMetadata lists the extensions that are")

    return call
