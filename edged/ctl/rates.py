"""What two states of the daemon, some seconds apart, say of the time between. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from google.protobuf.duration_pb2 import Duration

from edged._pb.edged.v1 import admin_pb2 as pb
from edged.ctl.plain import word


class ModelRates(msgspec.Struct, frozen=True):
    """One model revision; None: nothing to tell."""

    model: str
    revision: int
    variant: str
    state: str
    requests_per_s: float
    rows_per_s: float
    failed_per_s: float
    refused_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    queued: int
    executing: int
    cpu_percent: float | None
    """Of one core, over all its workers."""
    resident_bytes: int
    restarts: int


class Rates(msgspec.Struct, frozen=True):
    """All of them, and the daemon's own process."""

    seconds: float
    summary: str
    level: str
    cpu_percent: float
    """Of one core."""
    resident_bytes: int
    models: tuple[ModelRates, ...]


def rates(before: pb.Status, after: pb.Status, seconds: float) -> Rates:
    """What happened in the `seconds` between. A daemon or a worker that has begun meanwhile counts from zero."""
    same = before.pid == after.pid
    old_models = {(each.name, each.revision): each for each in before.models} if same else {}
    return Rates(
        seconds=seconds,
        summary=after.summary,
        level=word(after, "level"),
        cpu_percent=_percent(before.cpu_time if same else None, after.cpu_time, seconds),
        resident_bytes=after.resident_bytes,
        models=tuple(
            _model(old_models.get((each.name, each.revision), pb.Model()), each, before, after, seconds)
            for each in after.models
        ),
    )


def _model(old: pb.Model, new: pb.Model, before: pb.Status, after: pb.Status, seconds: float) -> ModelRates:
    workers = _workers(after, new)
    earlier = {each.pid: each for each in _workers(before, new)}
    cpu = [
        _percent(earlier[each.pid].cpu_time if each.pid in earlier else None, each.cpu_time, seconds)
        for each in workers
    ]
    return ModelRates(
        model=new.name,
        revision=new.revision,
        variant=new.variant,
        state="degraded" if new.ready and new.degraded else word(new, "state"),
        requests_per_s=_rate(old.requests_ok, new.requests_ok, seconds),
        rows_per_s=_rate(old.rows, new.rows, seconds),
        failed_per_s=_rate(old.requests_failed, new.requests_failed, seconds),
        refused_per_s=_rate(old.requests_refused, new.requests_refused, seconds),
        p50_ms=_ms(new.recent_p50) if new.HasField("recent_p50") else None,
        p99_ms=_ms(new.recent_p99) if new.HasField("recent_p99") else None,
        queued=new.queued,
        executing=new.executing,
        cpu_percent=sum(each or 0.0 for each in cpu) if cpu else None,
        resident_bytes=sum(each.resident_bytes for each in workers),
        restarts=max((each.restarts for each in workers), default=0),
    )


def _workers(of: pb.Status, model: pb.Model) -> Sequence[pb.Worker]:
    return [each for each in of.workers if (each.model, each.revision) == (model.name, model.revision)]


def _rate(old: int, new: int, seconds: float) -> float:
    return max(new - old, 0) / seconds


def _percent(old: Duration | None, new: Duration, seconds: float) -> float:
    used_ns = new.ToNanoseconds() - (old.ToNanoseconds() if old is not None else 0)
    return max(used_ns, 0) / 1e7 / seconds


def _ms(of: Duration) -> float:
    return of.ToNanoseconds() / 1e6
