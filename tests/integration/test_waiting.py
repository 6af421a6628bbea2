"""What becomes of requests that wait behind another in a real daemon: whose time passes, and who goes with whom."""

from __future__ import annotations

import itertools
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.calls import refusal, request, tensor
from support.daemon import PATIENCE_S, Daemon
from support.polling import until
from support.ports import free_port
from support.slow import A_WHILE, waiting_bundle

from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb

# How often a test begins anew where the one that others are to wait behind was done before they came.
ROUNDS = 20
LONG = 5 * A_WHILE


def waits(model: str, turns: int, columns: int = 1, timeout_us: int = 0) -> pb.ModelInferRequest:
    raw = [turns.to_bytes(8, "little"), bytes(4 * columns)]
    asked = request(model, tensor("turns", "INT64", [1, 1]), tensor("x", "FP32", [1, columns]), raw=raw)
    if timeout_us:
        asked.parameters["timeout"].int64_param = timeout_us
    return asked


@pytest.fixture(scope="module")
def metrics() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, metrics: str) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("waiting")
    made = [
        waiting_bundle(folder),
        waiting_bundle(folder, name="in-order", extra="[queue]\npreserve_ordering = true\n"),
    ]
    settings = f'[listen]\nmetrics = "{metrics}"\n[workers]\ninference_s = 300\n'  # what takes long is no hang
    with Daemon(folder / "root", made, settings) as daemon:
        daemon.start().wait_for(lambda status: status.ready)
        daemon.infer(waits("waits", 1))  # so that the connection is there
        yield daemon


def of_model(daemon: Daemon, name: str) -> admin_pb2.Model:
    [found] = [each for each in daemon.status().models if each.name == name]
    return found


def send(daemon: Daemon, asked: pb.ModelInferRequest) -> grpc.Future:
    ask = daemon.channel().unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    return ask.future(asked, timeout=PATIENCE_S)


def begin(daemon: Daemon, model: str) -> grpc.Future:
    """A call that is executed now, and for a while."""
    call = send(daemon, waits(model, LONG))
    until(lambda: of_model(daemon, model).executing, "it is executed", log=daemon.log)
    return call


def wait_behind(first: grpc.Future, daemon: Daemon, model: str, kinds: Sequence[int]) -> list[grpc.Future]:
    """Calls that wait in this order, unless the first is done before they came."""
    calls: list[grpc.Future] = []
    for columns in kinds:
        calls.append(send(daemon, waits(model, 1, columns)))
        until(
            lambda: first.done() or of_model(daemon, model).queued,
            f"{len(calls)} wait",
            holds=lambda found: found is True or found == len(calls),
            log=daemon.log,
        )
    return calls


def scraped(metrics: str, name: str, model: str) -> float:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=PATIENCE_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    [value] = [
        sample.value
        for family in families
        for sample in family.samples
        if (sample.name, sample.labels.get("model")) == (name, model)
    ]
    return value


def test_work_past_its_deadline_is_never_executed_and_counted_and_shown(device: Daemon, metrics: str):
    for _ in range(ROUNDS):
        before = of_model(device, "waits")
        first = begin(device, "waits")
        error = send(device, waits("waits", 1, timeout_us=10_000)).exception()
        waited = not first.done()
        first.result()
        if waited:
            break
    assert waited
    assert refusal(error)[:2] == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")
    device.infer(waits("waits", 1))
    after = of_model(device, "waits")
    assert (after.batches - before.batches, after.rows - before.rows) == (2, 2), "the first and the last"
    assert after.requests_expired - before.requests_expired == 1
    assert scraped(metrics, "edged_requests_expired_total", "waits") == after.requests_expired
    command = [sys.executable, "-m", "edged.ctl.main", "--root", str(device.root), "models"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout
    assert f"of which {after.requests_expired} expired" in " ".join(shown.split())


@pytest.mark.parametrize("model", ["waits", "in-order"])
def test_who_waits_goes_with_all_of_his_kind_but_overtakes_nobody_where_order_is_preserved(device: Daemon, model: str):
    kinds = [2, 3, 2, 2]
    for _ in range(ROUNDS):
        before = of_model(device, model)
        first = begin(device, model)
        others = wait_behind(first, device, model, kinds)
        waited = not first.done()
        for call in (first, *others):
            call.result()
        if waited:
            break
    assert waited
    batches = len(list(itertools.groupby(kinds))) if model == "in-order" else len(set(kinds))
    assert of_model(device, model).batches - before.batches == 1 + batches
