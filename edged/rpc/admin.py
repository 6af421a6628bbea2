"""`edged.v1.Admin`: what the device engineer's tools ask, on its own socket."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from datetime import datetime

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from edged import __version__, clock
from edged._pb.edged.v1 import admin_pb2 as pb
from edged.bundle.manifest import Variant
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.states import State
from edged.rpc.server import Methods, decode, stream, unary
from edged.serving import report
from edged.serving.report import Mode
from edged.serving.service import Service
from edged.system.life import Life
from edged.types import Level
from edged.worker import usage
from edged.worker.process import Worker
from edged.worker.regions import Region

SERVICE = "edged.v1.Admin"

_MAX_WATCHERS = 64

# A watcher is told of changes at most this often: a model that crashes in a loop must not flood it.
_WATCH_PAUSE_S = 0.1

_MODES = {
    Mode.STARTING: pb.STATE_STARTING,
    Mode.SERVING: pb.STATE_SERVING,
    Mode.DEGRADED: pb.STATE_DEGRADED,
    Mode.DRAINING: pb.STATE_DRAINING,
}
_STATES = {
    State.LOADING: pb.MODEL_STATE_LOADING,
    State.READY: pb.MODEL_STATE_READY,
    State.FAILED: pb.MODEL_STATE_FAILED,
    State.UNLOADING: pb.MODEL_STATE_UNLOADING,
    State.UNAVAILABLE: pb.MODEL_STATE_UNAVAILABLE,
}
_SEVERITIES = {
    Severity.DEBUG: pb.SEVERITY_DEBUG,
    Severity.INFO: pb.SEVERITY_INFO,
    Severity.WARNING: pb.SEVERITY_WARNING,
    Severity.ERROR: pb.SEVERITY_ERROR,
}

_LEVELS = {
    Level.NOMINAL: pb.LEVEL_NOMINAL,
    Level.ELEVATED: pb.LEVEL_ELEVATED,
    Level.CRITICAL: pb.LEVEL_CRITICAL,
    Level.EMERGENCY: pb.LEVEL_EMERGENCY,
}


class Admin:
    """The calls of `edged.v1.Admin`."""

    def __init__(
        self, service: Service, residency: Residency, life: Life, events: EventLog, hardware_class: str
    ) -> None:
        self._service = service
        self._residency = residency
        self._life = life
        self._events = events
        self._hardware_class = hardware_class
        self._watchers = 0

    def methods(self) -> Methods:
        """The calls by name."""
        return {
            "GetStatus": unary(self._get_status),
            "WatchStatus": stream(self._watch_status),
            "ListModels": unary(self._list_models),
            "ListWorkers": unary(self._list_workers),
            "ListEvents": unary(self._list_events),
            "ListRegions": unary(self._list_regions),
        }

    async def _get_status(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.GetStatusRequest, data)
        return self._status().SerializeToString()

    async def _watch_status(self, data: bytes, _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        decode(pb.WatchStatusRequest, data)
        if self._watchers >= _MAX_WATCHERS:
            raise EdgedError(Code.OVERLOADED, f"{self._watchers} callers watch already", "use GetStatus")
        self._watchers += 1
        changes = self._residency.changes
        try:
            while True:
                count = changes.count
                yield self._status().SerializeToString()
                await changes.after(count)
                await asyncio.sleep(_WATCH_PAUSE_S)
        finally:
            self._watchers -= 1

    async def _list_models(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.ListModelsRequest, data)
        return pb.ListModelsResponse(models=self._models()).SerializeToString()

    async def _list_workers(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ListWorkersRequest, data)
        workers = self._workers()
        if request.pss:
            for worker in workers:  # aside, since the kernel takes its time over a large one
                worker.pss_bytes = await asyncio.to_thread(usage.pss_bytes, worker.pid)
        return pb.ListWorkersResponse(workers=workers).SerializeToString()

    async def _list_events(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ListEventsRequest, data)
        events = [
            pb.Event(
                sequence=event.sequence,
                at=_timestamp(event.at),
                severity=_SEVERITIES[event.severity],
                code=event.code,
                subject=event.subject,
                message=event.message,
                details=event.details,
            )
            for event in self._events.after(request.after_sequence, request.limit)
        ]
        return pb.ListEventsResponse(events=events).SerializeToString()

    async def _list_regions(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.ListRegionsRequest, data)
        return pb.ListRegionsResponse(
            regions=[_region(region) for region in self._service.regions.all()]
        ).SerializeToString()

    def _status(self) -> pb.Status:
        own = usage.read(os.getpid())
        return pb.Status(
            version=__version__,
            pid=os.getpid(),
            started_at=_timestamp(self._life.started_at),
            state=_MODES[report.mode(self._life, self._residency)],
            live=True,
            ready=self._service.ready(),
            degraded_reasons=report.degraded_reasons(self._life, self._residency),
            level=_LEVELS[self._life.level],
            hardware_class=self._hardware_class,
            models=self._models(),
            workers=self._workers(),
            summary=report.summary(self._life, self._residency),
            listening=self._life.listening,
            cpu_time=_duration(int(own.cpu_s * 1e9)),
            resident_bytes=own.resident_bytes,
        )

    def _models(self) -> list[pb.Model]:
        return [self._model(resident) for resident in self._residency.all()]

    def _model(self, resident: Resident) -> pb.Model:
        queue = self._service.queue(resident)
        counted = queue.statistics
        p50_ns, p99_ns = counted.recent.quantiles(clock.monotonic_ns(), 0.5, 0.99)
        return pb.Model(
            name=resident.name,
            revision=resident.revision,
            digest=resident.digest,
            variant=resident.variant.name if resident.ready and resident.variant else "",
            runtime=resident.variant.runtime if resident.ready and resident.variant else "",
            state=_STATES[resident.state],
            reason=resident.reason,
            ready=resident.ready,
            degraded=resident.degraded,
            source=resident.source.origin,
            passed_over=[
                pb.Model.PassedOver(variant=passed.variant, code=passed.code, reason=passed.reason)
                for passed in (*resident.choice.passed_over, *resident.choice.waiting)
            ],
            requests_ok=counted.success.count,
            requests_failed=counted.fail.count,
            requests_refused=counted.refusals,
            rows=counted.inference_count,
            batches=counted.execution_count,
            queued=queue.waiting,
            executing=queue.executing,
            last_success=_from_ms(counted.last_success_ms) if counted.last_success_ms else None,
            recent_p50=_duration(p50_ns) if p50_ns else None,
            recent_p99=_duration(p99_ns) if p99_ns else None,
            requests_expired=counted.expired,
            requests_shed=counted.shed,
        )

    def _workers(self) -> list[pb.Worker]:
        return [worker for resident in self._residency.all() for worker in _workers(resident)]


def _workers(resident: Resident) -> list[pb.Worker]:
    """A resident's worker, where it has one, and those that it lost."""
    found = [_worker(resident, lost.variant, lost.worker, pb.WORKER_STATE_LOST) for lost in resident.lost]
    if resident.worker is not None and resident.variant is not None:
        state = pb.WORKER_STATE_READY if resident.ready else pb.WORKER_STATE_DRAINING
        found.insert(0, _worker(resident, resident.variant, resident.worker, state))
    return found


def _worker(resident: Resident, variant: Variant, worker: Worker, state: pb.WorkerState.ValueType) -> pb.Worker:
    taken = worker.usage()
    return pb.Worker(
        model=resident.name,
        revision=resident.revision,
        variant=variant.name,
        runtime=variant.runtime,
        runtime_version=resident.runtimes.get(variant.runtime) or "",
        pid=worker.pid,
        state=state,
        started_at=_timestamp(worker.started_at),
        resident_bytes=taken.resident_bytes,
        private_bytes=taken.private_bytes,
        peak_bytes=taken.peak_bytes,
        arena_bytes=taken.arena_bytes,
        charged_bytes=taken.charged_bytes,
        restarts=resident.restarts,
        caps=f"{worker.bounds()}; {worker.made}",
        last_exit=resident.last_exit,
        sandbox=worker.loaded.sandbox,
        sandbox_lacks=worker.loaded.sandbox_lacks,
        arena_held_bytes=worker.arena_held_bytes,
        cpu_time=_duration(int(taken.cpu_s * 1e9)),
        load_time=_duration(int((worker.loaded.load_s + worker.loaded.warmup_s) * 1e9)),
    )


def _region(region: Region) -> pb.Region:
    file, problem = region.file(), region.problem()
    return pb.Region(
        name=region.name,
        key=f"/{region.key}",
        offset=region.begin,
        byte_size=region.size,
        file_bytes=file.st_size,
        user_id=file.st_uid,
        group_id=file.st_gid,
        mode=stat.S_IMODE(file.st_mode),
        requests=region.requests,
        worker_pids=sorted(region.holders),
        fault=problem.message if problem else "",
    )


def _timestamp(at: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(at)
    return found


def _duration(ns: int) -> Duration:
    found = Duration()
    found.FromNanoseconds(ns)
    return found


def _from_ms(at_ms: int) -> Timestamp:
    found = Timestamp()
    found.FromMilliseconds(at_ms)
    return found
