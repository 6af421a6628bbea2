"""What priority a request gets by the way it comes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.daemon import PATIENCE_S, Daemon
from support.polling import until
from support.slow import VERY_LONG, count_to, counting_bundle

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    settings = "[listen]\nsocket_priority = 3\n[serving]\nqueue_requests = 1\ndrain_s = 0\n"
    with Daemon(tmp_path / "root", [counting_bundle(tmp_path)], settings) as daemon:
        yield daemon.start()


def ask(daemon: Daemon, priority: int, *, admin: bool = False) -> grpc.Future:
    request = count_to(VERY_LONG)
    request.parameters["priority"].int64_param = priority
    return daemon.channel(admin=admin).unary_unary(INFER).future(request.SerializeToString(), timeout=PATIENCE_S)


def code(call: grpc.Future) -> str:
    with contextlib.suppress(grpc.RpcError):
        call.result(timeout=PATIENCE_S)
    return dict(call.trailing_metadata())["edged-code"]


def until_has(daemon: Daemon, executing: int, queued: int) -> None:
    """Asks again and again: watchers are told of models, not of requests."""
    until(
        lambda: daemon.status().models[0],
        f"{executing} are executed and {queued} wait",
        holds=lambda model: (model.executing, model.queued) == (executing, queued),
        log=daemon.log,
    )


def test_a_socket_with_a_ceiling_gives_no_better_one_and_the_admin_socket_any(own):
    runs = ask(own, 1)
    until_has(own, executing=1, queued=0)
    waits = ask(own, 3)
    until_has(own, executing=1, queued=1)
    assert code(ask(own, 1)) == "overloaded", "it asked for better, and is no better than what waits"
    assert not waits.done()
    better = ask(own, 1, admin=True)
    assert code(waits) == "overloaded", "it lost its place"
    assert not better.done()
    assert not runs.done()
