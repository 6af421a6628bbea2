"""What is loaded: one resident a model revision, each kept up by one worker of the best variant that loads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from edged import log
from edged.bundle.manifest import Golden, Manifest, Variant, digest
from edged.changes import Changes
from edged.config.settings import Workers
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.models.routes import Route
from edged.models.selection import PassedOver, select
from edged.system.hardware import Hardware
from edged.worker import process
from edged.worker.messages import Compared, FileRef, Load, RunGolden, WarmupRun

_log = log.get("models")

# How long an idle worker may take to go once its link is closed.
_STOP_GRACE_S = 2.0


class State(StrEnum):
    """Where a resident stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    UNAVAILABLE = "unavailable"


class Source(msgspec.Struct, frozen=True):
    """A bundle on disk that may be loaded, and where it came from (`factory`)."""

    folder: Path
    manifest: Manifest
    origin: str


class Resident:
    """One model revision: it chooses a variant, starts its worker, and starts it again when it dies."""

    def __init__(
        self,
        source: Source,
        hardware: Hardware,
        runtimes: Mapping[str, str | None],
        settings: Workers,
        changes: Changes,
        events: EventLog,
    ) -> None:
        self.source = source
        self.manifest = source.manifest
        self.digest = digest(source.manifest)
        self.state = State.LOADING
        self.reason = ""
        self.variant: Variant | None = None
        self.worker: process.Worker | None = None
        self.restarts = 0
        self.last_exit = ""
        self.runtimes = runtimes
        self.settings = settings
        self._runnable, self.passed_over = select(source.manifest, hardware, runtimes)
        self._changes = changes
        self._events = events
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def revision(self) -> int:
        """The bundle's revision."""
        return self.manifest.revision

    @property
    def ready(self) -> bool:
        """Whether a worker answers now."""
        return self.state is State.READY

    @property
    def loading(self) -> bool:
        """Whether its first worker, or the next after one that ended, is still on its way."""
        return self.state is State.LOADING

    @property
    def degraded(self) -> bool:
        """Whether something else than the bundle's best variant answers."""
        return self.ready and self.variant is not self.manifest.variants[0]

    def start(self) -> None:
        """Begins to load."""
        self._task = asyncio.get_running_loop().create_task(self._live(), name=f"resident {self.name}")

    async def stop(self) -> None:
        """Ends the worker. Whoever wants its requests answered waits for them first."""
        self._become(State.UNLOADING, "the daemon stops")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._become(State.UNAVAILABLE, "unloaded")

    async def _live(self) -> None:
        """Keeps a worker up. A defect here costs this model and no other."""
        try:
            await self._keep_up()
        except Exception:  # noqa: BLE001 - logged, and told in the model's state
            _log.exception("a model met a defect of edged", model=self.name, revision=self.revision)
            self._fail("a defect of edged; its log says more")

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s = self.settings.restart_min_s
        while True:
            worker = await self._load_best()
            if worker is not None:
                since = loop.time()
                try:
                    self.last_exit = await asyncio.shield(worker.ended)
                finally:
                    self.worker = None
                    await worker.stop(_STOP_GRACE_S)
                if loop.time() - since > self.settings.restart_max_s:  # it served well: this is a new trouble
                    delay_s = self.settings.restart_min_s
            elif not self._runnable:
                return
            self._events.record(
                Severity.ERROR,
                Code.WORKER_CRASHED,
                self.name,
                f"the worker of revision {self.revision} ended: {self.last_exit}",
                revision=self.revision,
                variant=self.variant.name if self.variant else "",
                restart_s=delay_s,
            )
            self._become(State.LOADING, f"its worker ended ({self.last_exit}); it is started again in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, self.settings.restart_max_s)
            self.restarts += 1

    async def _load_best(self) -> process.Worker | None:
        """A worker of the best variant that loads; the others are passed over from then on.

        None when none does, or when the last one served before and did not come up again for a reason that may pass.
        """
        while self._runnable:
            variant = self._runnable[0]
            try:
                worker = await start_worker(self.source.folder, self.manifest, variant, self.settings)
            except (EdgedError, OSError) as error:
                if self._runnable == [self.variant] and _may_pass(error):
                    self.last_exit = str(error)
                    return None
                self._pass_over(variant, error)
                continue
            self.worker, self.variant = worker, variant
            self._become(State.READY, "")
            self._events.record(
                Severity.INFO,
                "model_ready",
                self.name,
                f"revision {self.revision}, variant {variant.name}, is ready",
                revision=self.revision,
                variant=variant.name,
                load_s=round(worker.loaded.load_s + worker.loaded.warmup_s, 3),
                pid=worker.pid,
            )
            return worker
        reasons = "; ".join(f"{passed.variant}: {passed.reason}" for passed in self.passed_over)
        self._fail(f"no variant can run here: {reasons}")
        return None

    def _pass_over(self, variant: Variant, error: EdgedError | OSError) -> None:
        code = error.code if isinstance(error, EdgedError) else Code.LOAD_FAILED
        self._runnable.remove(variant)
        self.passed_over.append(PassedOver(variant.name, code, str(error)))
        places = [each.name for each in self.manifest.variants]
        self.passed_over.sort(key=lambda passed: places.index(passed.variant))
        self._events.record(
            Severity.ERROR,
            code,
            self.name,
            f"variant {variant.name} of revision {self.revision} does not load: {error}",
            revision=self.revision,
            variant=variant.name,
        )

    def _fail(self, reason: str) -> None:
        self._become(State.FAILED, reason)
        self._events.record(Severity.ERROR, "model_failed", self.name, reason, revision=self.revision)

    def _become(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        self._changes.mark()


class Residency:
    """All residents, and the routes that follow from them."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self._residents: dict[tuple[str, int], Resident] = {}
        self.routes: dict[str, Route] = {}

    def add(self, resident: Resident) -> None:
        """Takes a resident in and starts it; the highest revision of a model becomes the one that serves."""
        self._residents[resident.name, resident.revision] = resident
        revisions = tuple(sorted(revision for name, revision in self._residents if name == resident.name))
        self.routes[resident.name] = Route(serving=revisions[-1], loaded=revisions, known=revisions)
        resident.start()

    def get(self, model: str, revision: int) -> Resident:
        """The resident of a resolved route. Raises KeyError."""
        return self._residents[model, revision]

    def serving(self) -> list[Resident]:
        """The residents that answer when no revision is named, by model name."""
        return [self._residents[name, route.serving] for name, route in sorted(self.routes.items())]

    def all(self) -> list[Resident]:
        """Every resident, by model name and revision."""
        return [self._residents[key] for key in sorted(self._residents)]

    async def stop(self) -> None:
        """Ends all workers, at the same time."""
        await asyncio.gather(*(resident.stop() for resident in self._residents.values()))


def _may_pass(error: EdgedError | OSError) -> bool:
    """Whether what kept a worker from coming up may be gone the next time: it was killed, or the device was short."""
    return isinstance(error, OSError) or error.code in (Code.WORKER_CRASHED, Code.WORKER_HANG)


def file_ref(manifest: Manifest, path: str) -> FileRef:
    """A file of the bundle as the link carries it."""
    file = manifest.file(path)
    return FileRef(file.path, file.size, file.sha256)


async def start_worker(folder: Path, manifest: Manifest, variant: Variant, settings: Workers) -> process.Worker:
    """Starts a worker that has loaded `variant`. Raises EdgedError with the reason, or OSError."""
    caps = variant.caps
    load = Load(
        folder=str(folder),
        file=file_ref(manifest, variant.file),
        runtime=variant.runtime,
        threads=variant.options.threads or settings.threads,
        precision=variant.options.precision,
        device=variant.options.device,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        max_batch_size=manifest.max_batch_size,
        warmup=tuple(WarmupRun(file_ref(manifest, run.file), run.count) for run in manifest.warmup),
    )
    limits = process.Limits(
        load_s=caps.load_s or settings.load_s,
        first_inference_s=caps.first_inference_s or settings.first_inference_s,
        inference_s=caps.inference_s or settings.inference_s,
    )
    return await process.start(load, limits)


async def run_golden(worker: process.Worker, manifest: Manifest, golden: Golden) -> Compared:
    """Has a worker run one golden. Raises EdgedError."""
    return await worker.golden(RunGolden(file_ref(manifest, golden.file), golden.atol, golden.rtol))
