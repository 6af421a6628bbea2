"""The daemon as edgectl asks it: its calls, and its errors in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.message import Message

from edged._pb.edged.v1 import admin_pb2, telemetry_pb2
from edged._pb.inference import grpc_service_pb2
from edged.ctl.asked import Asked
from edged.ctl.faults import RefusedError
from edged.ctl.reach import Door
from edged.errors import Code, EdgedError
from edged.rpc.status import CODE_KEY

_ADMIN = "edged.v1.Admin"
_TELEMETRY = "edged.v1.Telemetry"
_INFERENCE = "inference.GRPCInferenceService"

# The daemon says what is too large; a proxy that some shell names is not on the way to a socket.
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)

Reply = TypeVar("Reply", bound=Message)


class Client:
    """A connection to one of the daemon's sockets. Every call raises EdgedError."""

    def __init__(self, asked: Asked, *, admin: bool) -> None:
        """Raises EdgedError: not_running or not_permitted."""
        listen = asked.settings.under(asked.root).listen
        self._timeout_s = asked.timeout_s
        self._door = Door(Path(listen.admin_socket if admin else listen.socket), asked.start_hint, asked.timeout_s)
        folder, _, name = self._door.path.rpartition("/")
        self.address = f"unix:{folder}/{quote(name)}"
        """By it gRPC finds the socket, while this client is open."""
        self._channel = grpc.insecure_channel(self.address, OPTIONS)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._door.close()

    def status(self) -> admin_pb2.Status:
        """The whole state, now."""
        return self.ask(_ADMIN, "GetStatus", admin_pb2.GetStatusRequest(), admin_pb2.Status)

    def models(self) -> admin_pb2.ListModelsResponse:
        """The models the daemon knows."""
        return self.ask(_ADMIN, "ListModels", admin_pb2.ListModelsRequest(), admin_pb2.ListModelsResponse)

    def workers(self, *, pss: bool) -> admin_pb2.ListWorkersResponse:
        """The workers there are; with their proportional share of memory where `pss`."""
        request = admin_pb2.ListWorkersRequest(pss=pss)
        return self.ask(_ADMIN, "ListWorkers", request, admin_pb2.ListWorkersResponse)

    def events(self, limit: int, after: int) -> admin_pb2.ListEventsResponse:
        """What happened after the event `after`, at most the newest `limit`; 0: all that is kept."""
        request = admin_pb2.ListEventsRequest(limit=limit, after_sequence=after)
        return self.ask(_ADMIN, "ListEvents", request, admin_pb2.ListEventsResponse)

    def regions(self) -> admin_pb2.ListRegionsResponse:
        """The regions of shared memory that are registered."""
        return self.ask(_ADMIN, "ListRegions", admin_pb2.ListRegionsRequest(), admin_pb2.ListRegionsResponse)

    def telemetry(self) -> telemetry_pb2.TelemetryStanding:
        """How the spool and the connection to the broker are."""
        return self.ask(
            _TELEMETRY, "GetTelemetry", telemetry_pb2.GetTelemetryRequest(), telemetry_pb2.TelemetryStanding
        )

    def watch(self, for_s: float | None = None) -> Iterator[admin_pb2.Status]:
        """The whole state at once and after each change, until the daemon ends or `for_s` seconds are over.

        Both of these raise EdgedError (not_running).
        """
        return self.follow(_ADMIN, "WatchStatus", admin_pb2.WatchStatusRequest(), admin_pb2.Status, for_s)

    def follow(
        self, service: str, method: str, request: Message, reply: type[Reply], for_s: float | None = None
    ) -> Iterator[Reply]:
        """What a stream gives until it ends, or `for_s` seconds are over; both raise EdgedError (not_running)."""
        call = self._channel.unary_stream(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )(request, timeout=for_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise _in_words(error, method, for_s or self._timeout_s) from error
        finally:
            call.cancel()

    def server(self) -> grpc_service_pb2.ServerMetadataResponse:
        """Who answers."""
        request = grpc_service_pb2.ServerMetadataRequest()
        return self.ask(_INFERENCE, "ServerMetadata", request, grpc_service_pb2.ServerMetadataResponse)

    def ready(self, model: str) -> bool | None:
        """Whether a model answers who names no revision; None where nobody is to ask it, as when it is on trial."""
        request = grpc_service_pb2.ModelReadyRequest(name=model)
        try:
            return self.ask(_INFERENCE, "ModelReady", request, grpc_service_pb2.ModelReadyResponse).ready
        except RefusedError as error:
            if error.code is Code.MODEL_NOT_FOUND:
                return None
            raise

    def metadata(self, model: str, revision: int | None) -> grpc_service_pb2.ModelMetadataResponse:
        """What a model takes and gives."""
        request = grpc_service_pb2.ModelMetadataRequest(name=model, version=str(revision or ""))
        return self.ask(_INFERENCE, "ModelMetadata", request, grpc_service_pb2.ModelMetadataResponse)

    def config(self, model: str, revision: int | None) -> grpc_service_pb2.ModelConfigResponse:
        """How a model is served."""
        request = grpc_service_pb2.ModelConfigRequest(name=model, version=str(revision or ""))
        return self.ask(_INFERENCE, "ModelConfig", request, grpc_service_pb2.ModelConfigResponse)

    def statistics(self, model: str, revision: int | None) -> grpc_service_pb2.ModelStatisticsResponse:
        """What was counted of a model, or of all where none is named."""
        request = grpc_service_pb2.ModelStatisticsRequest(name=model, version=str(revision or ""))
        return self.ask(_INFERENCE, "ModelStatistics", request, grpc_service_pb2.ModelStatisticsResponse)

    def index(self) -> grpc_service_pb2.RepositoryIndexResponse:
        """Every revision on this device."""
        request = grpc_service_pb2.RepositoryIndexRequest()
        return self.ask(_INFERENCE, "RepositoryIndex", request, grpc_service_pb2.RepositoryIndexResponse)

    def load(self, model: str, revision: int | None) -> None:
        """Has a model serve; returns when it does."""
        request = grpc_service_pb2.RepositoryModelLoadRequest(model_name=model)
        if revision is not None:
            request.parameters["revision"].int64_param = revision
        self.ask(_INFERENCE, "RepositoryModelLoad", request, grpc_service_pb2.RepositoryModelLoadResponse)

    def unload(self, model: str) -> None:
        """Ends a model's workers; returns when they have gone."""
        request = grpc_service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self.ask(_INFERENCE, "RepositoryModelUnload", request, grpc_service_pb2.RepositoryModelUnloadResponse)

    def infer(self, request: grpc_service_pb2.ModelInferRequest) -> grpc_service_pb2.ModelInferResponse:
        """One inference."""
        return self.ask(_INFERENCE, "ModelInfer", request, grpc_service_pb2.ModelInferResponse)

    def ask(
        self, service: str, method: str, request: Message, reply: type[Reply], timeout_s: float | None = None
    ) -> Reply:
        """One call, which may take `timeout_s` seconds where that is longer than what was asked for."""
        call = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        within_s = max(self._timeout_s, timeout_s or 0)
        try:
            answer: Reply = call(request, timeout=within_s)
        except grpc.RpcError as error:
            raise _in_words(error, method, within_s) from error
        return answer


def _in_words(error: Any, method: str, within_s: float) -> EdgedError:
    code, details = error.code(), error.details() or "no reason given"
    for key, value in error.trailing_metadata() or ():
        if key == CODE_KEY:
            return RefusedError(value, details)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return EdgedError(Code.NOT_RUNNING, "edged went away before it answered", "see `journalctl -u edged`")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        hint = "give it longer with --timeout; if it hangs, `journalctl -u edged` may say why"
        return EdgedError(Code.NOT_RUNNING, f"edged did not answer within {within_s:g} s", hint)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return RefusedError("unsupported", f"this edged knows no {method}; is it of another release than edgectl?")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        details += "; listen.max_message_mib in edged's settings bounds it"
    return RefusedError(code.name.lower(), details)
