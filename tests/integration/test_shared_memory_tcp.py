"""Over TCP, where nobody can be told from another, no memory is shared: neither read, nor written, nor let go of."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from support.bundles import identity_bundle
from support.calls import refusal, request, tensor
from support.daemon import PATIENCE_S, Daemon
from support.ports import free_port

from edged._pb.inference import grpc_service_pb2 as pb
from edged.client import SharedRegion

SERVICE = "inference.GRPCInferenceService"
REGION, VALUES = "frames", [1.0, 2.0, 3.0, 4.0]
SIZE = 4 * len(VALUES)


@pytest.fixture(scope="module")
def region() -> Iterator[SharedRegion]:
    with SharedRegion(f"test-of-tcp-{uuid.uuid4().hex}", SIZE, group=None) as made:
        np.ndarray(len(VALUES), np.float32, made.buf)[:] = VALUES
        yield made


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, region: SharedRegion) -> Iterator[tuple[Daemon, grpc.Channel]]:
    """A daemon whose socket has registered the region, and the way in by TCP."""
    folder = tmp_path_factory.mktemp("tcp")
    address = f"127.0.0.1:{free_port()}"
    with Daemon(folder / "root", [identity_bundle(folder, "FP32")], f"listen.tcp = '{address}'") as daemon:
        daemon.start().wait_for(lambda status: status.ready)
        daemon.call(
            f"{SERVICE}/SystemSharedMemoryRegister", registration(region), pb.SystemSharedMemoryRegisterResponse
        )
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(PATIENCE_S)
            yield daemon, channel


def registration(region: SharedRegion, name: str = REGION) -> pb.SystemSharedMemoryRegisterRequest:
    return pb.SystemSharedMemoryRegisterRequest(name=name, key=region.key, byte_size=SIZE)


def place(part: Any) -> None:
    part.parameters["shared_memory_region"].string_param = REGION
    part.parameters["shared_memory_byte_size"].int64_param = SIZE


def reads() -> pb.ModelInferRequest:
    asked = request("identity-fp32", tensor("x", "FP32", [1, len(VALUES)]))
    place(asked.inputs[0])
    return asked


def plain() -> pb.ModelInferRequest:
    return request("identity-fp32", tensor("x", "FP32", [1, len(VALUES)]), raw=[bytes(SIZE)], outputs=["y"])


def writes() -> pb.ModelInferRequest:
    asked = plain()
    place(asked.outputs[0])
    return asked


CALLS = {
    "Status": lambda _: pb.SystemSharedMemoryStatusRequest(),
    "Register": lambda region: registration(region, "another"),
    "Unregister": lambda _: pb.SystemSharedMemoryUnregisterRequest(),
    "reads": lambda _: reads(),
    "writes": lambda _: writes(),
}


@pytest.mark.parametrize("case", CALLS)
def test_it_is_refused_and_the_region_is_as_it_was(
    device: tuple[Daemon, grpc.Channel], region: SharedRegion, case: str
) -> None:
    daemon, channel = device
    method = f"SystemSharedMemory{case}" if case[0].isupper() else "ModelInfer"
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/{method}")(CALLS[case](region).SerializeToString(), timeout=PATIENCE_S)
    status, code, message = refusal(raised.value)
    assert (status, code) == (grpc.StatusCode.PERMISSION_DENIED, "not_permitted")
    assert message.startswith(f"memory is not shared over TCP; ask {daemon.socket}, ")
    assert list(np.ndarray(len(VALUES), np.float32, region.buf)) == VALUES
    assert np.frombuffer(daemon.infer(reads()).raw_output_contents[0], np.float32).tolist() == VALUES


def test_it_is_refused_in_a_stream_too_which_goes_on(device: tuple[Daemon, grpc.Channel]) -> None:
    _, channel = device
    ask = channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    found = [each.error_message for each in ask(iter([reads(), plain()]), timeout=PATIENCE_S)]
    assert [error[:30] for error in found] == ["memory is not shared over TCP;", ""]
