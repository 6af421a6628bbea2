"""What can be scraped of the daemon, in Prometheus's text form. Reads, and does nothing else.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format

Names that begin with `nv_inference_` are Triton's and mean what they mean there, so that dashboards made for it fit:
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md. Those of `process_` are what
every Prometheus client library calls them. Triton's counters do not end in `_total`, which prometheus-client adds to
every counter; so the text is written here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from edged import __version__, clock
from edged.errors import Code
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.serving.scheduler import Queue
from edged.serving.service import Service
from edged.serving.statistics import Duration
from edged.system.life import Life
from edged.types import Level
from edged.worker import usage
from edged.worker.templates import Templates
from edged.worker.usage import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

COUNTER, GAUGE = "counter", "gauge"

_QUANTILES = (0.5, 0.9, 0.99)

# Of what is not answered for no fault of the model's, Triton tells these apart from `OTHER`.
_REASONS = {
    Code.OVERLOADED: "REJECTED",
    Code.DEADLINE_EXCEEDED: "REJECTED",
    Code.CANCELLED: "CANCELED",
}

_Subject = TypeVar("_Subject")


class Metric(msgspec.Struct, Generic[_Subject], frozen=True):
    """One metric of a kind of subject: how it is read, as one number or, with `label`, as one for each value of it."""

    name: str
    kind: str
    help: str
    read: Callable[[_Subject], float | Mapping[str, float]]
    label: str = ""


class Revision(msgspec.Struct, frozen=True):
    """A model revision that is or was loaded."""

    resident: Resident
    queue: Queue


class Process(msgspec.Struct, frozen=True):
    """A worker, with the resident that it serves; or a template, without."""

    used: Usage
    resident: Resident | None = None


class Device(msgspec.Struct, frozen=True):
    """The daemon as a whole."""

    service: Service
    residency: Residency
    life: Life
    hardware_class: str
    used: Usage


def _us(of: Duration) -> int:
    return of.ns // 1000


def _failures(of: Revision) -> Mapping[str, float]:
    counted = of.queue.statistics
    found = {"REJECTED": 0, "CANCELED": 0, "BACKEND": counted.fail.count, "OTHER": 0}
    for code, count in counted.refused.items():
        found[_REASONS.get(code, "OTHER")] += count
    return found


def _recent(of: Revision) -> Mapping[str, float]:
    found = of.queue.statistics.recent.quantiles(clock.monotonic_ns(), *_QUANTILES)
    return {str(quantile): ns / 1e9 for quantile, ns in zip(_QUANTILES, found, strict=True) if ns}


REVISIONS: tuple[Metric[Revision], ...] = (
    Metric(
        "nv_inference_request_success",
        COUNTER,
        "Requests that were answered.",
        lambda of: of.queue.statistics.success.count,
    ),
    Metric(
        "nv_inference_request_failure",
        COUNTER,
        "Requests that were not answered: REJECTED for want of room or time, CANCELED by the caller, BACKEND by a "
        "fault of the model or of edged, OTHER.",
        _failures,
        "reason",
    ),
    Metric(
        "nv_inference_count",
        COUNTER,
        "Rows of the requests that were answered.",
        lambda of: of.queue.statistics.inference_count,
    ),
    Metric(
        "nv_inference_exec_count",
        COUNTER,
        "Batches that were executed.",
        lambda of: of.queue.statistics.execution_count,
    ),
    Metric(
        "nv_inference_request_duration_us",
        COUNTER,
        "Microseconds from arrival to answer, over all answered requests.",
        lambda of: _us(of.queue.statistics.success),
    ),
    Metric(
        "nv_inference_queue_duration_us",
        COUNTER,
        "Microseconds from arrival to the worker, over all answered requests.",
        lambda of: _us(of.queue.statistics.queue),
    ),
    Metric(
        "nv_inference_compute_input_duration_us",
        COUNTER,
        "Microseconds before the engine in the worker; each request counts the whole of its batch.",
        lambda of: _us(of.queue.statistics.compute_input),
    ),
    Metric(
        "nv_inference_compute_infer_duration_us",
        COUNTER,
        "Microseconds in the engine; each request counts the whole of its batch.",
        lambda of: _us(of.queue.statistics.compute_infer),
    ),
    Metric(
        "nv_inference_compute_output_duration_us",
        COUNTER,
        "Microseconds after the engine in the worker; each request counts the whole of its batch.",
        lambda of: _us(of.queue.statistics.compute_output),
    ),
    Metric("nv_inference_pending_request_count", GAUGE, "Requests that wait.", lambda of: of.queue.waiting),
    Metric("edged_requests_executing", GAUGE, "Requests that a worker has.", lambda of: of.queue.executing),
    Metric(
        "edged_requests_refused_total",
        COUNTER,
        "Requests that were not answered for no fault of the model's, by the code that callers got.",
        lambda of: {str(code): count for code, count in of.queue.statistics.refused.items()},
        "code",
    ),
    Metric(
        "edged_requests_expired_total",
        COUNTER,
        "Requests whose deadline passed while they waited; they were never executed.",
        lambda of: of.queue.statistics.expired,
    ),
    Metric(
        "edged_requests_shed_total",
        COUNTER,
        "Requests that were taken, and turned away for a more important one or by a limit.",
        lambda of: of.queue.statistics.shed,
    ),
    Metric(
        "edged_request_recent_seconds",
        GAUGE,
        "Seconds from arrival to answer over the last 30 to 60 seconds, to a sixteenth; absent while there is none.",
        _recent,
        "quantile",
    ),
    Metric("edged_model_ready", GAUGE, "1 where it answers now.", lambda of: of.resident.ready),
    Metric(
        "edged_model_degraded",
        GAUGE,
        "1 where a lesser variant than the best answers.",
        lambda of: of.resident.degraded,
    ),
    Metric(
        "edged_model_last_success_timestamp_seconds",
        GAUGE,
        "When a request was last answered, by the device's clock; 0: none was.",
        lambda of: of.queue.statistics.last_success_ms / 1000,
    ),
    Metric(
        "edged_worker_restarts_total",
        COUNTER,
        "Workers that ended unasked and were followed by another.",
        lambda of: of.resident.restarts,
    ),
    Metric(
        "edged_workers_lost",
        GAUGE,
        "Workers that were killed and do not go: they hang in the kernel.",
        lambda of: len(of.resident.lost),
    ),
)

WORKERS: tuple[Metric[Process], ...] = (
    Metric("edged_worker_cpu_seconds_total", COUNTER, "Processor time of the worker.", lambda of: of.used.cpu_s),
    Metric("edged_worker_resident_bytes", GAUGE, "Resident memory of the worker.", lambda of: of.used.resident_bytes),
    Metric("edged_worker_arena_bytes", GAUGE, "What its arena takes.", lambda of: of.used.arena_bytes),
    Metric(
        "edged_worker_charged_bytes", GAUGE, "What counts against its memory cap.", lambda of: of.used.charged_bytes
    ),
)

TEMPLATES: tuple[Metric[Process], ...] = (
    Metric(
        "edged_template_resident_bytes",
        GAUGE,
        "Resident memory of the warm process that workers of a runtime are forked from.",
        lambda of: of.used.resident_bytes,
    ),
)

DEVICE: tuple[Metric[Device], ...] = (
    Metric("edged_info", GAUGE, "1, with the daemon's version.", lambda _: {__version__: 1}, "version"),
    Metric("edged_hardware_class", GAUGE, "1, with the hardware class.", lambda of: {of.hardware_class: 1}, "class"),
    Metric("edged_ready", GAUGE, "1 where every model that should serve does.", lambda of: of.service.ready()),
    Metric(
        "edged_degraded_reasons",
        GAUGE,
        "Faults of the daemon itself; `edgectl status` says which.",
        lambda of: len(of.life.degraded_reasons),
    ),
    Metric(
        "edged_level",
        GAUGE,
        "1 for the level at which the device is pressed, 0 for the others.",
        lambda of: {level.value: level is of.life.level for level in Level},
        "level",
    ),
    Metric("edged_duty_ratio", GAUGE, "The share of time in which inferences may run.", lambda of: of.service.duty),
    Metric("edged_regions", GAUGE, "Regions of shared memory.", lambda of: len(of.service.regions.all())),
    Metric(
        "edged_region_bytes",
        GAUGE,
        "Bytes of all regions of shared memory.",
        lambda of: sum(region.size for region in of.service.regions.all()),
    ),
    Metric("process_cpu_seconds_total", COUNTER, "Processor time of the daemon itself.", lambda of: of.used.cpu_s),
    Metric(
        "process_resident_memory_bytes",
        GAUGE,
        "Resident memory of the daemon itself.",
        lambda of: of.used.resident_bytes,
    ),
    Metric(
        "process_start_time_seconds",
        GAUGE,
        "When the daemon started, by the device's clock.",
        lambda of: of.life.started_at.timestamp(),
    ),
)


class Metrics:
    """The page of all of them."""

    def __init__(
        self, service: Service, residency: Residency, life: Life, templates: Templates, hardware_class: str
    ) -> None:
        self._service = service
        self._residency = residency
        self._life = life
        self._templates = templates
        self._hardware_class = hardware_class

    def page(self) -> bytes:
        """All metrics as they are now."""
        residents = self._residency.all()
        device = Device(self._service, self._residency, self._life, self._hardware_class, usage.read(os.getpid()))
        revisions = [(_names(each), Revision(each, self._service.queue(each))) for each in residents]
        workers = [
            ({**_names(each), "variant": each.variant.name}, Process(each.worker.usage(), each))
            for each in residents
            if each.worker is not None and each.variant is not None
        ]
        templates = [
            ({"runtime": runtime}, Process(usage.read(pid))) for runtime, pid in self._templates.warm_pids().items()
        ]
        lines = [
            *_lines(DEVICE, [({}, device)]),
            *_lines(REVISIONS, revisions),
            *_lines(WORKERS, workers),
            *_lines(TEMPLATES, templates),
        ]
        return "".join(lines).encode()


def _names(of: Resident) -> dict[str, str]:
    return {"model": of.name, "version": str(of.revision)}


def _lines(
    metrics: Iterable[Metric[_Subject]], subjects: Iterable[tuple[Mapping[str, str], _Subject]]
) -> Iterator[str]:
    subjects = list(subjects)
    for metric in metrics:
        yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
        for names, subject in subjects:
            found = metric.read(subject)
            if isinstance(found, Mapping):
                for value, number in found.items():
                    yield sample(metric.name, {**names, metric.label: value}, number)
            else:
                yield sample(metric.name, names, found)


def sample(name: str, labels: Mapping[str, str], number: float) -> str:
    """One line. Pure."""
    told = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
    return f"{name}{{{told}}} {+number!r}\n" if told else f"{name} {+number!r}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
