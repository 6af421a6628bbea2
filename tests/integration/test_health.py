"""gRPC health: the truth about the server and each model, told when asked and told when it changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from support import bundles
from support.calls import pack, refused, request, tensor
from support.daemon import PATIENCE_S, Daemon
from support.ports import free_port

from edged._pb.inference import grpc_service_pb2 as pb
from edged.rpc.health import _MOST_WATCHES
from edged.rpc.server import _MAX_CALLS_PER_CONNECTION

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
ADMIN = "edged.v1.Admin"

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def check(daemon: Daemon, name: str, *, admin: bool = False) -> int:
    asked = health_pb2.HealthCheckRequest(service=name)
    return int(daemon.call(f"{HEALTH}/Check", asked, health_pb2.HealthCheckResponse, admin=admin).status)


@contextmanager
def watch(daemon: Daemon, name: str, channel: grpc.Channel | None = None) -> Iterator[Any]:
    """A Watch, ended with the block."""
    call = (channel or daemon.channel()).unary_stream(
        f"/{HEALTH}/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S)
    try:
        yield call
    finally:
        call.cancel()


def kill_worker(daemon: Daemon, model: str) -> int:
    """Ends a model's worker as the kernel would when memory runs out; gives its pid."""
    [worker] = [each for each in daemon.status().workers if each.model == model]
    os.kill(worker.pid, signal.SIGKILL)
    return int(worker.pid)


def ready(daemon: Daemon, model: str = "") -> bool:
    """ServerReady, or ModelReady."""
    if model:
        asked = pb.ModelReadyRequest(name=model)
        return bool(daemon.call(f"{SERVICE}/ModelReady", asked, pb.ModelReadyResponse).ready)
    return bool(daemon.call(f"{SERVICE}/ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready)


KNOWN = {
    "the server": ("", False),
    "the inference service": (SERVICE, False),
    "the health service": (HEALTH, False),
    "a model": ("sums", False),
    "another model": ("digits", False),
    "the server, by the admin socket": ("", True),
    "the admin service": (ADMIN, True),
}


@pytest.mark.parametrize(("name", "admin"), KNOWN.values(), ids=KNOWN)
def test_what_serves_is_said_to(daemon: Daemon, name: str, *, admin: bool) -> None:
    assert check(daemon, name, admin=admin) == SERVING


@pytest.mark.parametrize(
    "name", ["nobody", "Sums", "inference", "sums/1", ADMIN, "x" * 5000], ids=lambda name: name[:9]
)
def test_what_is_not_there_is_not_found(daemon: Daemon, name: str) -> None:
    """The admin service is not: it has a socket of its own."""
    with pytest.raises(grpc.RpcError) as raised:
        check(daemon, name)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert repr(name[:64]) in raised.value.details()


@pytest.mark.parametrize("name", ["", SERVICE, "sums"])
def test_a_watcher_hears_the_state_at_once(daemon: Daemon, name: str) -> None:
    with watch(daemon, name) as heard:
        assert next(heard).status == SERVING


def test_a_watcher_of_what_is_not_there_hears_so_and_may_stay(daemon: Daemon) -> None:
    """It may come: the protocol says SERVICE_UNKNOWN and keeps the stream."""
    with watch(daemon, "nobody") as heard:
        assert next(heard).status == SERVICE_UNKNOWN
        assert heard.is_active()


def test_watchers_hear_a_model_go_and_come_back(daemon: Daemon) -> None:
    with watch(daemon, "sums") as model, watch(daemon, "") as server, watch(daemon, "digits") as other:
        assert [next(each).status for each in (model, server, other)] == [SERVING] * 3
        ended = kill_worker(daemon, "sums")
        assert next(model).status == NOT_SERVING
        assert next(server).status == NOT_SERVING
        assert next(model).status == SERVING
        assert next(server).status == SERVING
    assert check(daemon, "sums") == SERVING
    assert ready(daemon)
    [worker] = [each for each in daemon.status().workers if each.model == "sums"]
    assert worker.pid != ended
    assert "SIGKILL" in worker.last_exit


def test_a_connection_full_of_watches_keeps_nobody_from_watching(daemon: Daemon) -> None:
    with daemon.channel(options=[("grpc.use_local_subchannel_pool", 1)]) as channel, ExitStack() as stack:
        watches = [stack.enter_context(watch(daemon, "sums", channel)) for _ in range(_MAX_CALLS_PER_CONNECTION)]
        assert {next(each).status for each in watches} == {SERVING}
        with watch(daemon, "sums") as other:
            assert next(other).status == SERVING


@contextmanager
def many_watches(daemon: Daemon, count: int) -> Iterator[list[Any]]:
    """So many by the socket, over as many connections as they take, each begun before the next."""
    with ExitStack() as stack:
        begun = []
        for _ in range(0, count, _MAX_CALLS_PER_CONNECTION):
            channel = stack.enter_context(daemon.channel(options=[("grpc.use_local_subchannel_pool", 1)]))
            for _ in range(min(_MAX_CALLS_PER_CONNECTION, count - len(begun))):
                begun.append(stack.enter_context(watch(daemon, "sums", channel)))
                assert next(begun[-1]).status == SERVING
        yield begun


def gave_way(watched: Any) -> None:
    """Waits until it has, and looks at what it was told."""
    with pytest.raises(grpc.RpcError) as raised:
        next(watched)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(raised.value.trailing_metadata())["edged-code"] == "overloaded"
    assert "more than 256 callers watch" in raised.value.details()
    assert "watch again" in raised.value.details()


def test_of_too_many_watches_the_oldest_give_way_and_may_come_again(daemon: Daemon) -> None:
    """As where one process takes all there may be: it keeps nobody from watching, and grows without bound no more."""
    with watch(daemon, "sums") as oldest:
        assert next(oldest).status == SERVING
        with many_watches(daemon, _MOST_WATCHES + 10) as others:
            for each in (oldest, *others[:10]):
                gave_way(each)
            with watch(daemon, "sums") as again:
                assert next(again).status == SERVING
                gave_way(others[10])
                assert all(each.is_active() for each in (*others[11:], again))


def test_a_watch_over_tcp_gives_way_to_no_other_connection(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        Daemon(tmp_path / "root", [bundles.sums_bundle(tmp_path)], f"listen.tcp = '{address}'") as daemon,
        ExitStack() as stack,
    ):
        daemon.start().wait_for(lambda status: status.ready)
        greedy, other = (
            stack.enter_context(grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]))
            for _ in range(2)
        )
        oldest = stack.enter_context(watch(daemon, "sums", other))
        assert next(oldest).status == SERVING
        watches = []
        for _ in range(_MOST_WATCHES):
            watches.append(stack.enter_context(watch(daemon, "sums", greedy)))
            assert next(watches[-1]).status == SERVING
        gave_way(watches[0])
        assert oldest.is_active()


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with `sums` and `identity-bool` that does not start a worker again for an hour."""
    made = [bundles.sums_bundle(tmp_path), bundles.identity_bundle(tmp_path, "BOOL")]
    settings = "[workers]\nrestart_min_s = 3600\nrestart_max_s = 3600\n"
    with Daemon(tmp_path / "root", made, settings) as daemon:
        yield daemon.start()


def test_while_a_model_is_away_every_call_says_so_and_the_others_serve(lasting: Daemon) -> None:
    daemon = lasting
    assert ready(daemon)
    with watch(daemon, "sums") as heard, watch(daemon, "identity-bool") as other:
        assert next(heard).status == SERVING
        assert next(other).status == SERVING
        kill_worker(daemon, "sums")
        assert next(heard).status == NOT_SERVING
        assert next(heard).status == SERVING, "the first is replaced at once"
        kill_worker(daemon, "sums")
        assert next(heard).status == NOT_SERVING
        assert not ready(daemon)
        assert not ready(daemon, "sums")
        assert ready(daemon, "identity-bool")
        assert [check(daemon, name) for name in ("", SERVICE, "sums")] == [NOT_SERVING] * 3
        assert check(daemon, "identity-bool") == SERVING
        row = tensor("a", "FP32", [0, 3]), tensor("b", "FP32", [0, 3])
        status, code, message = refused(daemon, request("sums", *row))
        assert (status, code) == (grpc.StatusCode.UNAVAILABLE, "model_unavailable")
        assert "model 'sums' is loading: its worker ended (killed by SIGKILL)" in message
        assert "started again in 3600 s" in message
        answer = daemon.infer(request("identity-bool", tensor("x", "BOOL", [1, 1]), raw=[pack("BOOL", [True])]))
        assert list(answer.raw_output_contents) == [b"\1"]
        told = daemon.status()
        assert told.live
        assert not told.ready
        assert any("model sums is loading" in reason for reason in told.degraded_reasons)
    assert daemon.call(f"{SERVICE}/ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
