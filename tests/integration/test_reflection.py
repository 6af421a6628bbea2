"""A client that knows nothing but the address learns the protocol from the server, and uses it.

What it learns goes into a descriptor pool of its own: none of edged's generated messages has a part in it.
"""

from __future__ import annotations

import struct
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from support.daemon import PATIENCE_S, Daemon

INFERENCE = "inference.GRPCInferenceService"
ADMIN = "edged.v1.Admin"
TELEMETRY = "edged.v1.Telemetry"
UPDATES = "edged.v1.Updates"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"

PROTOCOL_CALLS = {"ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"}


class Stranger:
    """Knows an address, and learns the rest."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self.database)

    def service(self, name: str) -> ServiceDescriptor:
        """A service as the server describes it. Raises KeyError."""
        return self._pool.FindServiceByName(name)

    def method(self, service: str, name: str) -> MethodDescriptor:
        return self.service(service).FindMethodByName(name)

    def call(self, service: str, name: str, /, **fields: Any) -> Any:
        """One unary call with a request made of what was learnt."""
        method = self.method(service, name)
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        reply = message_factory.GetMessageClass(method.output_type)
        stub = self._channel.unary_unary(
            f"/{service}/{name}", type(request).SerializeToString, response_deserializer=reply.FromString
        )
        return stub(request, timeout=PATIENCE_S)


@pytest.fixture
def stranger(daemon: Daemon) -> Stranger:
    return Stranger(daemon.channel())


@pytest.fixture
def administrator(daemon: Daemon) -> Stranger:
    return Stranger(daemon.channel(admin=True))


def test_each_socket_lists_what_it_offers(stranger: Stranger, administrator: Stranger) -> None:
    assert set(stranger.database.get_services()) == {INFERENCE, HEALTH, REFLECTION}
    assert set(administrator.database.get_services()) == {INFERENCE, HEALTH, REFLECTION, ADMIN, TELEMETRY, UPDATES}


def test_the_service_is_described_whole(stranger: Stranger) -> None:
    assert set(stranger.service(INFERENCE).methods_by_name) >= PROTOCOL_CALLS
    request = stranger.method(INFERENCE, "ModelInfer").input_type
    assert request.full_name == "inference.ModelInferRequest"
    assert request.fields_by_name["raw_input_contents"].number == 7


def test_a_model_is_found_asked_about_and_run(stranger: Stranger) -> None:
    """From the address to an answer, with nothing known beforehand."""
    metadata = stranger.call(INFERENCE, "ModelMetadata", name="sums")
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": [2 if size == -1 else size for size in tensor.shape],
        }
        for tensor in metadata.inputs
    ]
    assert [(each["name"], each["datatype"], each["shape"]) for each in inputs] == [
        ("a", "FP32", [2, 3]),
        ("b", "FP32", [2, 3]),
    ]
    rows = struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    answer = stranger.call(
        INFERENCE, "ModelInfer", model_name="sums", id="learnt", inputs=inputs, raw_input_contents=[rows, rows]
    )
    assert (answer.model_name, answer.model_version, answer.id) == ("sums", "1", "learnt")
    assert [output.name for output in answer.outputs] == ["sum", "difference"]
    assert list(answer.raw_output_contents) == [struct.pack("<6f", 2, 4, 6, 8, 10, 12), bytes(24)]


def test_health_is_learnt_too(stranger: Stranger) -> None:
    answer = stranger.call(HEALTH, "Check", service="sums")
    statuses = type(answer).DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number
    assert statuses[answer.status].name == "SERVING"


def test_the_admin_socket_tells_its_status_to_a_stranger(administrator: Stranger, daemon: Daemon) -> None:
    status = administrator.call(ADMIN, "GetStatus")
    assert status.pid == daemon.pid
    assert "sums" in [model.name for model in status.models]


@pytest.mark.parametrize("symbol", [ADMIN, "edged.v1.Status", "nobody.Nothing"])
def test_the_public_socket_does_not_know(stranger: Stranger, symbol: str) -> None:
    """Not by its services' names, and not by those of their messages."""
    with pytest.raises(KeyError):
        stranger.database.FindFileContainingSymbol(symbol)


@pytest.mark.parametrize("method", ["GetStatus", "WatchStatus", "ListModels", "ListWorkers", "ListEvents"])
def test_the_public_socket_does_not_administer(daemon: Daemon, administrator: Stranger, method: str) -> None:
    assert method in administrator.service(ADMIN).methods_by_name
    with pytest.raises(grpc.RpcError) as raised:
        daemon.channel().unary_unary(f"/{ADMIN}/{method}")(b"", timeout=PATIENCE_S)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_names_of_reflection_answer(daemon: Daemon, version: str) -> None:
    """v1 is v1alpha by another name, which newer clients try first."""
    call = daemon.channel().stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=INFERENCE),
        reflection_pb2.ServerReflectionRequest(file_by_filename="nobody.proto"),
    ]
    listed, found, missing = call(iter(asked), timeout=PATIENCE_S)
    assert INFERENCE in [service.name for service in listed.list_services_response.service]
    assert len(found.file_descriptor_response.file_descriptor_proto) == 2
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_what_is_no_message_ends_the_stream_as_malformed(daemon: Daemon) -> None:
    call = daemon.channel().stream_stream(f"/{REFLECTION}/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as raised:
        list(call(iter([b"\xff"]), timeout=PATIENCE_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(raised.value.trailing_metadata())["edged-code"] == "malformed_request"
