"""What `edgectl top` makes of two states."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from edged._pb.edged.v1 import admin_pb2 as pb
from edged.ctl import top
from edged.ctl.rates import rates


def seconds(value: float) -> Duration:
    found = Duration()
    found.FromNanoseconds(round(value * 1e9))
    return found


def worker(pid: int, cpu_s: float, **values: object) -> pb.Worker:
    given = {"model": "digits", "revision": 7, "pid": pid, "cpu_time": seconds(cpu_s), "resident_bytes": 50 * 2**20}
    return pb.Worker(**{**given, **values})  # type: ignore[arg-type]


def status(ok: int, workers: list[pb.Worker], *, pid: int = 1, cpu_s: float = 0.0, **values: object) -> pb.Status:
    given = {"name": "digits", "revision": 7, "state": pb.MODEL_STATE_READY, "ready": True, "requests_ok": ok}
    model = pb.Model(**{**given, **values})  # type: ignore[arg-type]
    own = {"summary": "serving", "level": pb.LEVEL_NOMINAL, "cpu_time": seconds(cpu_s)}
    return pb.Status(pid=pid, models=[model], workers=workers, **own)  # type: ignore[arg-type]


def test_counters_become_rates():
    before = status(100, [worker(5, 1.0)], cpu_s=2.0, rows=200, requests_failed=1, requests_refused=10)
    after = status(
        300,
        [worker(5, 2.5)],
        cpu_s=2.5,
        rows=800,
        requests_failed=3,
        requests_refused=16,
        queued=4,
        recent_p50=seconds(0.002),
    )
    found = rates(before, after, 2.0)
    [model] = found.models
    assert (found.cpu_percent, found.level, found.summary) == (25, "nominal", "serving")
    assert (model.requests_per_s, model.rows_per_s, model.failed_per_s, model.refused_per_s) == (100, 300, 1, 3)
    assert (model.cpu_percent, model.resident_bytes, model.queued) == (75, 50 * 2**20, 4)
    assert (model.p50_ms, model.p99_ms) == (2, None)


def test_a_worker_that_took_anothers_place_counts_from_zero():
    [model] = rates(status(0, [worker(5, 9.0)]), status(0, [worker(6, 0.5, restarts=1)]), 1.0).models
    assert (model.cpu_percent, model.restarts) == (50, 1)


def test_a_daemon_that_was_started_again_counts_from_zero():
    found = rates(status(1000, [], cpu_s=90.0), status(10, [], pid=2, cpu_s=0.5), 1.0)
    assert (found.models[0].requests_per_s, found.cpu_percent) == (10, 50)


def test_a_model_that_is_new_counts_from_zero_and_one_without_a_worker_takes_nothing():
    [model] = rates(pb.Status(pid=1), status(5, []), 1.0).models
    assert (model.requests_per_s, model.cpu_percent, model.resident_bytes) == (5, None, 0)


def test_it_is_shown_in_80_columns():
    after = status(
        123_456,
        [worker(5, 1.0, resident_bytes=2**30)],
        requests_failed=1000,
        requests_refused=99_000,
        recent_p50=seconds(0.0123),
        recent_p99=seconds(1.5),
        queued=1000,
        degraded=True,
    )
    table = top.table(rates(status(0, [worker(5, 0.0)]), after, 1.0))
    [row] = [dict(zip([column.title for column in table.columns], row, strict=True)) for row in table.rows]
    assert row == {
        "MODEL": "digits",
        "REV": "7",
        "STATE": "degraded",
        "REQ/S": "123456",
        "FAIL/S": "1000",
        "REF/S": "99000",
        "P50": "12.3",
        "P99": "1500",
        "WAIT": "1000",
        "CPU%": "100",
        "MIB": "1024",
    }
    widths = [max(len(title), len(cell)) for title, cell in row.items()]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80
