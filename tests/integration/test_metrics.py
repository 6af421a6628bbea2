"""The metrics of a real daemon, scraped as Prometheus does."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest
from onnx import helper
from prometheus_client.parser import text_string_to_metric_families
from support.bundles import make_bundle, onnx_model
from support.calls import request, tensor
from support.daemon import PATIENCE_S, Daemon
from support.ports import free_port

from edged import __version__
from edged.rpc.metrics import DEVICE, REVISIONS, TEMPLATES, WORKERS

X, Y = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
NEG = {"model": "neg", "version": "1"}

Labels = dict[str, str]


def scraped(port: int) -> dict[str, list[tuple[Labels, float]]]:
    """The samples by name, as prometheus-client's own parser reads them; it adds `_total` to Triton's counters."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        page = answer.read().decode()
    found: dict[str, list[tuple[Labels, float]]] = {
        name: [] for name in re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)
    }
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = sample.name.removesuffix("_total") if sample.name.startswith("nv_") else sample.name
            found[name].append((sample.labels, sample.value))
    return found


def value(found: dict[str, list[tuple[Labels, float]]], name: str, **labels: str) -> float:
    [number] = [number for each, number in found[name] if each == labels]
    return number


def bundle(folder: Path) -> Path:
    return make_bundle(folder / "neg", onnx_model([helper.make_node("Neg", ["x"], ["y"])], X, Y), X, Y, name="neg")


def ask(daemon: Daemon, rows: int, given: int | None = None) -> None:
    asked = request("neg", tensor("x", "FP32", [rows, 2]), raw=[bytes(8 * (rows if given is None else given))])
    daemon.infer(asked)


@pytest.fixture
def port() -> int:
    return free_port()


def test_what_happened_is_told(tmp_path: Path, port: int):
    with Daemon(tmp_path / "root", [bundle(tmp_path)], f'[listen]\nmetrics = "127.0.0.1:{port}"\n') as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        for rows in (1, 2, 5):
            ask(daemon, rows)
        with pytest.raises(grpc.RpcError):
            ask(daemon, rows=2, given=1)
        found, status = scraped(port), daemon.status()
        [model], [worker] = status.models, status.workers

        assert value(found, "nv_inference_request_success", **NEG) == model.requests_ok == 3
        assert value(found, "nv_inference_count", **NEG) == model.rows == 8
        assert value(found, "nv_inference_exec_count", **NEG) == model.batches
        assert value(found, "nv_inference_request_failure", **NEG, reason="OTHER") == model.requests_refused == 1
        assert value(found, "nv_inference_request_failure", **NEG, reason="BACKEND") == 0
        assert value(found, "edged_requests_refused_total", **NEG, code="invalid_tensor") == 1
        parts = ("queue", "compute_input", "compute_infer", "compute_output")
        whole = value(found, "nv_inference_request_duration_us", **NEG)
        assert 0 < sum(value(found, f"nv_inference_{part}_duration_us", **NEG) for part in parts) <= whole
        assert value(found, "nv_inference_pending_request_count", **NEG) == 0
        half = model.recent_p50.ToNanoseconds() / 1e9
        assert value(found, "edged_request_recent_seconds", **NEG, quantile="0.5") == half > 0
        assert value(found, "edged_model_ready", **NEG) == 1
        last = model.last_success.ToMilliseconds() / 1000
        assert value(found, "edged_model_last_success_timestamp_seconds", **NEG) == last

        of_worker = {**NEG, "variant": worker.variant}
        while (used_s := psutil_cpu_s(worker.pid)) < 0.05:
            ask(daemon, 4)
        told_s = value(scraped(port), "edged_worker_cpu_seconds_total", **of_worker)
        assert used_s <= told_s <= psutil_cpu_s(worker.pid)
        assert value(found, "edged_worker_resident_bytes", **of_worker) > 2**20
        assert value(found, "edged_template_resident_bytes", runtime="onnxruntime") > 2**20
        assert value(found, "edged_level", level="nominal") == 1
        assert sum(number for _, number in found["edged_level"]) == 1
        assert value(found, "edged_duty_ratio") == 1
        assert value(found, "edged_ready") == 1
        assert value(found, "edged_info", version=__version__) == 1
        assert value(found, "process_resident_memory_bytes") > 2**20
        assert value(found, "process_start_time_seconds") == pytest.approx(status.started_at.ToMilliseconds() / 1000)

        assert list(found) == [each.name for metrics in (DEVICE, REVISIONS, WORKERS, TEMPLATES) for each in metrics]
        assert f"http://127.0.0.1:{port}/metrics" in status.listening
    assert not busy(port)


def psutil_cpu_s(pid: int) -> float:
    taken = psutil.Process(pid).cpu_times()
    return float(taken.user + taken.system)


def busy(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_a_worker_that_comes_back_is_counted(tmp_path: Path, port: int):
    with Daemon(tmp_path / "root", [bundle(tmp_path)], f'[listen]\nmetrics = "127.0.0.1:{port}"\n') as daemon:
        daemon.start()
        first = daemon.wait_for(lambda status: status.ready).workers[0]
        assert value(scraped(port), "edged_worker_restarts_total", **NEG) == 0
        psutil.Process(first.pid).kill()
        daemon.wait_for(lambda status: status.ready and status.workers[0].pid != first.pid)
        assert value(scraped(port), "edged_worker_restarts_total", **NEG) == 1


def test_nothing_listens_where_nobody_asked_for_it(tmp_path: Path):
    with Daemon(tmp_path / "root") as daemon:
        daemon.start()
        assert psutil.Process(daemon.pid).net_connections("inet") == []


def test_an_address_in_use_degrades_and_models_are_served(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with Daemon(tmp_path / "root", [bundle(tmp_path)], f'[listen]\nmetrics = "127.0.0.1:{port}"\n') as daemon:
            daemon.start()
            status = daemon.wait_for(lambda status: status.ready)
            [reason] = status.degraded_reasons
            assert f"metrics cannot be shown on 127.0.0.1 port {port}" in reason
            ask(daemon, 1)
