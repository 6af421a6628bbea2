"""The daemon's messages as tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edged._pb.edged.v1 import admin_pb2 as pb
from edged.ctl import tables
from edged.ctl.output import Table, plain

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def rows(table: Table) -> list[dict[str, str]]:
    """The rows, by the titles of their columns."""
    return [dict(zip([column.title for column in table.columns], row, strict=True)) for row in table.rows]


def model(**values: object) -> pb.Model:
    given = {"name": "digits", "revision": 7, "variant": "fp32", "runtime": "onnxruntime", "digest": "0123456789ab"}
    return pb.Model(**{**given, "state": pb.MODEL_STATE_READY, "ready": True, **values})  # type: ignore[arg-type]


def test_the_daemon_as_a_whole():
    status = pb.Status(
        version="0.1.0",
        pid=42,
        state=pb.STATE_DEGRADED,
        hardware_class="medical-cart-cpu",
        level=pb.LEVEL_ELEVATED,
        listening=["unix:/run/edged/edged.sock", "127.0.0.1:8001"],
        degraded_reasons=["model x is failed", "another"],
    )
    status.started_at.FromDatetime(NOW - timedelta(seconds=192))
    assert list(tables.status(status, NOW).rows) == [
        ("state", "degraded, not ready"),
        ("version", "0.1.0"),
        ("pid", "42"),
        ("uptime", "3 min 12 s"),
        ("class", "medical-cart-cpu"),
        ("level", "elevated"),
        ("listening", "unix:/run/edged/edged.sock"),
        ("", "127.0.0.1:8001"),
        ("degraded", "model x is failed"),
        ("", "another"),
    ]
    status.ready = True
    assert tables.status(status, NOW).rows[0] == ("state", "degraded")


def test_a_model_that_serves():
    found = model(requests_ok=1204, requests_refused=3)
    found.last_success.FromDatetime(NOW - timedelta(seconds=5))
    (row,) = rows(tables.models([found], NOW))
    assert row == {
        "MODEL": "digits",
        "REV": "7",
        "VARIANT": "fp32",
        "RUNTIME": "onnxruntime",
        "STATE": "ready",
        "REQUESTS": "1204 ok, 3 refused",
        "LAST OK": "5 s ago",
        "DIGEST": "01234567",
    }
    assert rows(tables.short_models([found]))[0]["REQUESTS"] == "1204 ok, 3 refused"


def test_a_model_that_does_not_serve():
    found = model(variant="", runtime="", state=pb.MODEL_STATE_FAILED, ready=False, requests_failed=2)
    (row,) = rows(tables.models([found], NOW))
    assert (row["VARIANT"], row["RUNTIME"], row["STATE"], row["LAST OK"]) == ("-", "-", "failed", "never")
    assert row["REQUESTS"] == "0 ok, 2 failed"


def test_what_was_late_is_told_of_what_was_refused():
    found = model(requests_ok=5, requests_refused=3, requests_expired=2)
    assert rows(tables.models([found], NOW))[0]["REQUESTS"] == "5 ok, 3 refused, of which 2 expired"


def test_a_lesser_variant_is_told_as_degraded():
    assert rows(tables.short_models([model(degraded=True)]))[0]["STATE"] == "degraded"


def test_notes_tell_reasons_once():
    passed = pb.Model.PassedOver(variant="tpu", code="incompatible_hardware", reason="needs the accelerator edgetpu")
    alone = model(reason="its worker ended", state=pb.MODEL_STATE_LOADING, ready=False)
    told = model(passed_over=[passed], reason="no variant can run here: tpu: needs the accelerator edgetpu")
    lesser = model(passed_over=[passed])
    by_variant = "digits: variant tpu is passed over: needs the accelerator edgetpu (incompatible_hardware)"
    assert tables.model_notes([alone]) == ["digits is loading: its worker ended"]
    assert tables.model_notes([told]) == tables.model_notes([lesser]) == [by_variant]
    assert tables.model_notes([model()]) == []


def worker(**values: object) -> pb.Worker:
    given = {"model": "digits", "revision": 7, "variant": "fp32", "pid": 99, "state": pb.WORKER_STATE_READY}
    return pb.Worker(**{**given, **values})  # type: ignore[arg-type]


def test_workers():
    found = worker(
        resident_bytes=61 * 2**20,
        private_bytes=9 * 2**20,
        peak_bytes=70 * 2**20,
        arena_bytes=12 * 2**20,
        pss_bytes=20 * 2**20,
        restarts=2,
    )
    found.cpu_time.FromMilliseconds(1500)
    found.load_time.FromMilliseconds(80)
    (row,) = rows(tables.workers([found]))
    assert row == {
        "MODEL": "digits",
        "REV": "7",
        "VARIANT": "fp32",
        "PID": "99",
        "STATE": "ready",
        "CPU": "1.5 s",
        "MIB": "61",
        "PRIVATE": "9",
        "PEAK": "70",
        "ARENA": "12",
        "LOAD": "0.08 s",
        "RESTARTS": "2",
    }
    (row,) = rows(tables.workers([found], pss=True))
    assert row["PSS"] == "20"
    (row,) = rows(tables.workers([worker(pid=0, state=pb.WORKER_STATE_ENDED)]))
    assert (row["PID"], row["STATE"], row["CPU"], row["MIB"], row["LOAD"]) == ("-", "ended", "-", "-", "-")


def test_a_lost_worker_is_told_with_what_it_holds():
    lost = worker(state=pb.WORKER_STATE_LOST, charged_bytes=45 * 2**20, last_exit="killed by SIGKILL")
    assert rows(tables.workers([lost]))[0]["STATE"] == "lost"
    told = "process 99 was killed and does not end; it keeps 45 MiB and its device until it does"
    assert tables.worker_notes([lost]) == [f"digits 7 fp32: {told}"]


def test_bounds_of_workers_are_told_once_where_they_are_alike():
    one, same, other = worker(caps="load 60 s"), worker(model="b", caps="load 60 s"), worker(model="c", caps="512 MiB")
    assert tables.worker_notes([one]) == ["digits 7 fp32: at most load 60 s"]
    assert tables.worker_notes([one, same]) == ["all: at most load 60 s"]
    assert len(tables.worker_notes([one, same, other])) == 3
    assert tables.worker_notes([worker(), worker()]) == []
    ended = "digits 7 fp32: the worker before it ended: killed by SIGKILL"
    assert tables.worker_notes([worker(last_exit="killed by SIGKILL")]) == [ended]


def test_what_the_sandboxes_lack_is_told_once():
    lacks = "Landlock (this kernel has none)"
    workers = [worker(sandbox_lacks=[lacks]), worker(model="b", sandbox_lacks=[lacks]), worker(model="c")]
    assert tables.worker_notes(workers) == [f"the sandbox lacks: {lacks}"]
    status = pb.Status(workers=workers)
    assert [row for row in tables.status(status, NOW).rows if row[0] == "sandbox"] == [
        ("sandbox", f"workers lack: {lacks}")
    ]


def event(sequence: int, at: datetime) -> pb.Event:
    found = pb.Event(sequence=sequence, severity=pb.SEVERITY_ERROR, code="worker_crashed", subject="digits")
    found.message = "the worker ended"
    found.at.FromDatetime(at)
    return found


def test_events_of_today_have_no_date():
    local = NOW.astimezone()
    table = tables.events([event(1, local)], local)
    assert table.rows == [("1", f"{local:%H:%M:%S}", "error", "digits", "the worker ended [worker_crashed]")]
    table = tables.events([event(1, local - timedelta(days=1)), event(2, local)], local)
    assert [row[1] for row in table.rows] == [
        f"{local - timedelta(days=1):%Y-%m-%d %H:%M:%S}",
        f"{local:%Y-%m-%d %H:%M:%S}",
    ]


@pytest.mark.parametrize("name", ["digits", "a-model-name-of-a-usual-length"])
def test_a_pipe_gets_every_cell(name: str):
    text = "\n".join(plain(tables.models([model(name=name, requests_failed=9, requests_ok=10**9)], NOW)))
    assert all(part in text for part in (name, "onnxruntime", "1000000000 ok, 9 failed", "01234567"))


def test_regions_of_shared_memory():
    found = pb.Region(
        name="frames",
        key="/camera",
        offset=4096,
        byte_size=6_220_800,
        file_bytes=8,
        user_id=0,
        group_id=4_000_000,
        mode=0o660,
        requests=7,
        worker_pids=[12, 34],
        fault="region 'frames' was shrunk",
    )
    assert rows(tables.regions([found, pb.Region(name="unused", mode=0o600)]))[0] == {
        "NAME": "frames",
        "KEY": "/camera",
        "OFFSET": "4096",
        "BYTES": "6220800",
        "OWNER": "root:4000000",
        "MODE": "0660",
        "REQUESTS": "7",
        "WORKERS": "12, 34",
    }
    assert rows(tables.regions([pb.Region(name="unused")]))[0]["WORKERS"] == "-"
    assert tables.region_notes([found, pb.Region(name="unused")]) == ["region 'frames' was shrunk"]
