"""One process that takes all the connections and calls there are: the others are served all the same."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from support import bundles
from support.calls import request, tensor
from support.daemon import PATIENCE_S, REPO, Daemon
from support.polling import until

from edged._pb.inference import grpc_service_pb2 as pb
from edged.rpc import server
from edged.rpc.connections import MOST_PER_PROCESS

ROW = bytes(12)

# What gRPC says to whom it has no room for.
TURNED_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)

# Connects so often to the socket that it is given, says so, and waits until it is told to go. With `calls`, each
# connection opens as many calls as it may and never finishes their requests; without, it connects again and again.
FLOODER = """
import socket, struct, sys, threading, time

path, connections, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

def literal(name, value):
    return b"\\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

headers = b"".join(literal(*each) for each in (
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"localhost"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
))
opening = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + frame(4, 0, 0, b"")
opening += b"".join(frame(1, 4, 1 + 2 * index, headers) for index in range(calls))
held = []

def flood():
    done = 0
    while not calls or done < connections:
        for one in list(held):
            try:
                if not one.recv(65536, socket.MSG_DONTWAIT):
                    held.remove(one)
            except BlockingIOError:
                pass
            except OSError:
                held.remove(one)
        if len(held) < connections:
            one = socket.socket(socket.AF_UNIX)
            try:
                one.connect(path)
                if calls:
                    one.sendall(opening)
                held.append(one)
                done += 1
            except OSError:
                pass
        else:
            time.sleep(0.05)

threading.Thread(target=flood, daemon=True).start()
while len(held) < min(connections, 200):
    time.sleep(0.01)
print("here", flush=True)
sys.stdin.read()
"""


@contextmanager
def flood(path: Path, connections: int, calls: int = 0) -> Iterator[int]:
    """While another process does it; gives its id."""
    command = [sys.executable, "-c", FLOODER, str(path), str(connections), str(calls)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"here\n"
            yield process.pid
        finally:
            process.stdin.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "root", [bundles.sums_bundle(tmp_path)]) as daemon:
        yield daemon.start()


def ask(daemon: Daemon) -> None:
    """Another client, on a connection of its own, waits for room and is served."""
    asked = request("sums", *(tensor(name, "FP32", [1, 3]) for name in ("a", "b")), raw=[ROW, ROW])
    channel = daemon.channel(
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
    )
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    for left in reversed(range(600)):
        try:
            assert call(asked, timeout=PATIENCE_S, wait_for_ready=True).outputs
            return
        except grpc.RpcError as error:  # its connection was one too many, or the server had all its calls
            if error.code() not in TURNED_AWAY or not left:
                raise


@pytest.mark.parametrize("calls", [0, server._MAX_CALLS_PER_CONNECTION], ids=["idle", "half a request in each call"])
def test_one_that_takes_all_there_is_keeps_nobody_out(own: Daemon, calls: int) -> None:
    with flood(own.socket, server._MAX_CONNECTIONS, calls) as process:
        status = own.status()
        assert status.ready, "administrators have a server of their own"
        for _ in range(5):
            ask(own)

        def named() -> list[str]:
            return [event.details["process"] for event in own.events("overloaded")]

        # On a busy machine the others may be served before it has all that it takes.
        assert until(named, "it is told who takes too much", log=own.log)[0] == str(process)
    ask(own)


def test_one_that_has_its_share_keeps_it(own: Daemon) -> None:
    with ExitStack() as stack:
        mine = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(MOST_PER_PROCESS - 2)]
        for each in mine:
            each.connect(str(own.socket))
        with flood(own.socket, server._MAX_CONNECTIONS):
            ask(own)
        for each in mine:
            each.setblocking(False)
            assert each.recv(65536), "gRPC greets"
            with pytest.raises(BlockingIOError):
                each.recv(65536)  # and it is not the end


STREAMS, CONNECTIONS, COLUMNS, REQUESTS = 1000, 5, 4096, 4


def test_a_thousand_streams_whose_answers_nobody_reads_cost_others_nothing_and_little_memory(tmp_path: Path) -> None:
    """All open at once, each with more answers than gRPC takes that are not read."""
    asked = request("identity-int64", tensor("x", "INT64", [1, COLUMNS]), raw=[bytes(8 * COLUMNS)]).SerializeToString()
    bundle = bundles.identity_bundle(tmp_path, "INT64")
    # However slow the machine is, none of them is one too many for the queue.
    patient = f"[serving]\nqueue_requests = {STREAMS * REQUESTS}\nqueue_delay_ms = 60000\n"
    with Daemon(tmp_path / "root", [bundles.sums_bundle(tmp_path), bundle], patient) as daemon:
        daemon.start()
        ask(daemon)
        before = psutil.Process(daemon.pid).memory_info().rss
        channels = [daemon.channel(options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CONNECTIONS)]
        streams = [
            channels[index % CONNECTIONS].stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(
                iter([asked] * REQUESTS)
            )
            for index in range(STREAMS)
        ]
        try:
            first = [next(stream) for stream in streams]
            for _ in range(20):
                ask(daemon)
            grown = psutil.Process(daemon.pid).memory_info().rss - before
        finally:
            for stream in streams:
                stream.cancel()
        assert all(len(answer) > 8 * COLUMNS for answer in first), "each is open, and was answered once"
        assert grown < 2 * STREAMS * REQUESTS * len(asked) + 64 * 2**20
        daemon.wait_for(lambda status: all(not model.executing and not model.queued for model in status.models))
        ask(daemon)


def test_large_requests_that_are_refused_leave_no_memory_behind(daemon: Daemon) -> None:
    front = psutil.Process(daemon.pid)
    refused = request("nobody", tensor("x", "UINT8", [8 * 2**20]), raw=[bytes(8 * 2**20)])

    def ask() -> None:
        with pytest.raises(grpc.RpcError) as caught:
            daemon.infer(refused)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    for _ in range(4):
        ask()
    before = front.memory_info().rss
    for _ in range(40):
        ask()
    assert front.memory_info().rss - before < 10 * refused.ByteSize()
