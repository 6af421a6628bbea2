"""The daemon's messages as tables for people. Pure: what time it is comes in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from edged._pb.edged.v1 import admin_pb2 as pb
from edged.ctl.output import Column, Table, fields
from edged.ctl.plain import word
from edged.ctl.words import ago, duration, group, mib, short_digest, user

_MODEL = (
    Column("MODEL", wraps=True),
    Column("REV", right=True),
    Column("VARIANT", wraps=True),
)


def status(found: pb.Status, now: datetime) -> Table:
    """The daemon as a whole."""
    up_s = (now - found.started_at.ToDatetime(tzinfo=UTC)).total_seconds()
    listening = [("listening" if not index else "", address) for index, address in enumerate(found.listening)]
    reasons = [("degraded" if not index else "", reason) for index, reason in enumerate(found.degraded_reasons)]
    return fields(
        [
            ("state", word(found, "state") + ("" if found.ready else ", not ready")),
            ("version", found.version),
            ("pid", str(found.pid)),
            ("uptime", duration(up_s)),
            ("class", found.hardware_class),
            ("level", word(found, "level")),
            *listening,
            *reasons,
            *[("sandbox", f"workers lack: {lacking}") for lacking in _lacking(found.workers)],
        ]
    )


def short_models(models: Sequence[pb.Model]) -> Table:
    """The models in brief."""
    columns = (*_MODEL, Column("STATE"), Column("REQUESTS", wraps=True))
    return Table(
        columns,
        [(each.name, str(each.revision), each.variant or "-", _state(each), _requests(each)) for each in models],
    )


def models(models: Sequence[pb.Model], now: datetime) -> Table:
    """The models in full, but for what `model_notes` says."""
    columns = (
        *_MODEL,
        Column("RUNTIME"),
        Column("STATE"),
        Column("REQUESTS", wraps=True),
        Column("LAST OK"),
        Column("DIGEST"),
    )
    rows = []
    for each in models:
        last = ago(each.last_success.ToDatetime(tzinfo=UTC), now) if each.HasField("last_success") else "never"
        rows.append(
            (
                each.name,
                str(each.revision),
                each.variant or "-",
                each.runtime or "-",
                _state(each),
                _requests(each),
                last,
                short_digest(each.digest),
            )
        )
    return Table(columns, rows)


def model_notes(models: Sequence[pb.Model]) -> list[str]:
    """Why models are as they are, and why variants that come before do not serve."""
    notes = []
    for each in models:
        if each.reason and not _told_by_variants(each):
            notes.append(f"{each.name} is {_state(each)}: {each.reason}")
        notes += [
            f"{each.name}: variant {passed.variant} is passed over: {passed.reason} ({passed.code})"
            for passed in each.passed_over
        ]
    return notes


def _told_by_variants(model: pb.Model) -> bool:
    """Whether a model's reason only repeats those of its variants."""
    return bool(model.passed_over) and all(passed.reason in model.reason for passed in model.passed_over)


def workers(workers: Sequence[pb.Worker], *, pss: bool = False) -> Table:
    """The workers, but for what `worker_notes` says; with their proportional share of memory where `pss`."""
    columns = (
        *_MODEL,
        Column("PID", right=True),
        Column("STATE"),
        Column("CPU", right=True),
        Column("MIB", right=True),
        Column("PRIVATE", right=True),
        *([Column("PSS", right=True)] if pss else []),
        Column("PEAK", right=True),
        Column("ARENA", right=True),
        Column("LOAD", right=True),
        Column("RESTARTS", right=True),
    )
    rows = [
        (
            each.model,
            str(each.revision),
            each.variant,
            str(each.pid or "-"),
            word(each, "state"),
            duration(each.cpu_time.ToNanoseconds() / 1e9) if each.HasField("cpu_time") else "-",
            mib(each.resident_bytes),
            mib(each.private_bytes),
            *([mib(each.pss_bytes)] if pss else []),
            mib(each.peak_bytes),
            mib(each.arena_bytes),
            duration(each.load_time.ToNanoseconds() / 1e9) if each.HasField("load_time") else "-",
            str(each.restarts),
        )
        for each in workers
    ]
    return Table(columns, rows)


def worker_notes(workers: Sequence[pb.Worker]) -> list[str]:
    """What bounds each worker, what it is not kept from though it should be, and how the one before it ended."""
    alike = len(workers) > 1 and len({each.caps for each in workers}) == 1
    notes = [f"all: at most {workers[0].caps}"] if alike and workers[0].caps else []
    notes += [f"the sandbox lacks: {lacking}" for lacking in _lacking(workers)]
    for each in workers:
        name = f"{each.model} {each.revision} {each.variant}"
        if each.caps and not alike:
            notes.append(f"{name}: at most {each.caps}")
        if each.state == pb.WORKER_STATE_LOST:
            held = f"keeps {mib(each.charged_bytes)} MiB and its device until it does"
            notes.append(f"{name}: process {each.pid} was killed and does not end; it {held}")
        elif each.last_exit:
            notes.append(f"{name}: the worker before it ended: {each.last_exit}")
    return notes


def regions(regions: Sequence[pb.Region]) -> Table:
    """The regions of shared memory, but for what `region_notes` says."""
    columns = (
        Column("NAME", wraps=True),
        Column("KEY", wraps=True),
        Column("OFFSET", right=True),
        Column("BYTES", right=True),
        Column("OWNER", wraps=True),
        Column("MODE"),
        Column("REQUESTS", right=True),
        Column("WORKERS", wraps=True),
    )
    rows = [
        (
            each.name,
            each.key,
            str(each.offset),
            str(each.byte_size),
            f"{user(each.user_id)}:{group(each.group_id)}",
            f"{each.mode:04o}",
            str(each.requests),
            ", ".join(map(str, each.worker_pids)) or "-",
        )
        for each in regions
    ]
    return Table(columns, rows)


def region_notes(regions: Sequence[pb.Region]) -> list[str]:
    """Why regions may not be used."""
    return [each.fault for each in regions if each.fault]


def events(events: Sequence[pb.Event], now: datetime) -> Table:
    """What happened, a line each; with the date where not all of it happened today."""
    times = [_local(each.at) for each in events]
    today = all(time.date() == now.astimezone().date() for time in times)
    columns = (
        Column("SEQ", right=True),
        Column("TIME"),
        Column("SEVERITY"),
        Column("SUBJECT", wraps=True),
        Column("MESSAGE", wraps=True),
    )
    rows = [
        (
            str(each.sequence),
            time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S"),
            word(each, "severity"),
            each.subject,
            f"{each.message} [{each.code}]",
        )
        for each, time in zip(events, times, strict=True)
    ]
    return Table(columns, rows)


def _local(time: Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC).astimezone()


def _state(model: pb.Model) -> str:
    return "degraded" if model.ready and model.degraded else word(model, "state")


def _requests(model: pb.Model) -> str:
    late = f"refused, of which {model.requests_expired} expired" if model.requests_expired else "refused"
    counted = ((model.requests_failed, "failed"), (model.requests_refused, late))
    return ", ".join([f"{model.requests_ok} ok", *(f"{number} {name}" for number, name in counted if number)])


def _lacking(workers: Sequence[pb.Worker]) -> list[str]:
    """What the sandboxes lack, each once: it is the kernel that lacks it."""
    return sorted({lacking for each in workers for lacking in each.sandbox_lacks})
