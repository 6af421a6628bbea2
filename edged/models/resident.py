"""One model revision kept up: its variant chosen, its worker started, and started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from edged import log
from edged.bundle.manifest import Manifest, Variant, digest
from edged.changes import Changes
from edged.config.settings import Workers
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.models import restarts
from edged.models.loading import Terms, start_worker
from edged.models.selection import PassedOver, select
from edged.system.hardware import Hardware
from edged.worker import cgroup, process
from edged.worker.cgroup import Groups
from edged.worker.templates import Maker

_log = log.get("models")

# How long an idle worker may take to go once its link is closed.
_STOP_GRACE_S = 2.0

# Requests wait for a worker that is back within this time; for a longer delay they are refused at once.
_WORTH_WAITING_S = 2.0


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


class Lost(msgspec.Struct, frozen=True):
    """A worker that could not be ended: what it holds stays charged to its model until it goes after all."""

    variant: Variant
    worker: process.Worker


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
        make: Maker,
        max_answer_bytes: int = 0,
        groups: Groups = cgroup.NONE,
    ) -> None:
        self.source = source
        self.manifest = source.manifest
        self.digest = digest(source.manifest)
        self.state = State.UNAVAILABLE
        self.reason = "never loaded"
        self.variant: Variant | None = None
        self.worker: process.Worker | None = None
        self.restarts = 0
        self.last_exit = ""
        self.runtimes = runtimes
        self.settings = settings
        self.changes = changes
        self.lost: list[Lost] = []
        self.begun = False
        """Whether it was ever to be loaded."""
        self.leaving = False
        """Whether it is to go: what waits is still answered, and nothing new is taken."""
        self._runnable, self.passed_over = select(source.manifest, hardware, runtimes)
        self._hardware = hardware
        self._events = events
        self._make = make
        self._max_answer_bytes = max_answer_bytes
        self._groups = groups
        self.crashes = 0
        """Workers that ended unasked, and by no fault of another's; hangs are counted apart."""
        self.trouble: EdgedError | None = None
        """What the last worker that ended, or did not come up, is blamed for."""
        self.hangs = 0
        self._served = False
        self._deaths = 0
        """In a row, with no answer between."""
        self._delay_s = 0.0
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
        return self.state is State.READY and self.working

    @property
    def working(self) -> bool:
        """Whether there is a worker, if only for what waits while it is unloaded."""
        up = self.state is State.READY or self.leaving
        return up and self.worker is not None and not self.worker.ended.done()

    @property
    def expected(self) -> bool:
        """Whether it answers now, or is expected to shortly: its worker has died and is on its way back."""
        just_ended = self.state is State.READY  # what follows from that is not decided yet
        return just_ended or (self.loading and self._served and self._delay_s <= _WORTH_WAITING_S)

    @property
    def loading(self) -> bool:
        """Whether its first worker, or the next after one that ended, is still on its way."""
        return self.state is State.LOADING

    @property
    def settled(self) -> bool:
        """Whether its first load has come to an end, good or bad."""
        return not self.loading or self._deaths > 0

    @property
    def deaths(self) -> int:
        """Workers that ended in a row with no answer between, or did not come up."""
        return self._deaths

    @property
    def degraded(self) -> bool:
        """Whether something else than the bundle's best variant answers."""
        return self.ready and self.variant is not self.manifest.variants[0]

    def start(self) -> None:
        """Begins to load, or to load again once it has been stopped: every variant has its chance anew."""
        if self.begun:
            self._runnable, self.passed_over = select(self.manifest, self._hardware, self.runtimes)
            self._served, self._deaths, self._delay_s = False, 0, 0.0
        self.begun, self.leaving = True, False
        self._become(State.LOADING, "")
        self._task = asyncio.get_running_loop().create_task(self._live(), name=f"resident {self.name}")

    @property
    def loaded(self) -> bool:
        """Whether it is loaded, or on its way to be."""
        return self.begun and not self.leaving

    def leave(self, why: str) -> None:
        """Takes nothing new from now on; `stop` follows when what waits is answered."""
        self.leaving = True
        self._become(State.UNLOADING, why)

    async def stop(self, why: str = "unloaded") -> None:
        """Ends the worker; `why` is told from then on. Whoever wants its requests answered waits for them first."""
        self._become(State.UNLOADING, self.reason if self.leaving else "the daemon stops")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.variant = None
        self._become(State.UNAVAILABLE, why)

    async def _live(self) -> None:
        """Keeps a worker up. A defect here costs this model and no other."""
        try:
            await self._keep_up()
        except Exception:  # noqa: BLE001 - logged, and told in the model's state
            _log.exception("a model met a defect of edged", model=self.name, revision=self.revision)
            self._fail("a defect of edged; its log says more")

    async def _keep_up(self) -> None:
        while self._runnable:
            worker = await self._load(self._runnable[0])
            if worker is None:
                continue
            try:
                how = await asyncio.shield(worker.ended)
            except asyncio.CancelledError:
                self.worker = None
                if (await worker.stop(_STOP_GRACE_S)).lost:
                    self._lose(self._runnable[0], worker)
                raise
            self.worker = None
            self.last_exit = how.text
            if self.leaving:  # what waited is told that it is gone
                self.changes.mark()
                return
            self._become(State.LOADING, f"its worker ended ({how.text})")
            if not worker.excused:
                self._deaths += 1
                self._count_death(worker)
            verdict = worker.verdict or EdgedError(Code.WORKER_CRASHED, f"its worker ended: {how.text}")
            self.trouble = verdict
            if how.lost:
                self._lose(self._runnable[0], worker)
                self._pass_over(self._runnable[0], verdict)
            else:
                await self._come_back(verdict)
        reasons = "; ".join(f"{passed.variant}: {passed.reason}" for passed in self.passed_over)
        self._fail(f"no variant can run here: {reasons}")

    async def _load(self, variant: Variant) -> process.Worker | None:
        """A worker of `variant`, ready; None when it does not load, which is then dealt with."""
        try:
            worker = await start_worker(self.source.folder, self.manifest, variant, self.terms)
        except process.LostError as error:
            self._lose(variant, error.worker)
            self._pass_over(variant, error)
            return None
        except (EdgedError, OSError) as error:
            self.trouble = error if isinstance(error, EdgedError) else EdgedError(Code.LOAD_FAILED, str(error))
            if _may_pass(error) and (self._runnable == [variant] or not _is_hang(error)):
                self.last_exit = str(error)
                self._deaths += 1
                await self._come_back(error)
            else:
                self._pass_over(variant, error)
            return None
        self.worker, self.variant, self._served = worker, variant, True
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
            made=worker.made,
        )
        return worker

    async def _come_back(self, why: EdgedError | OSError) -> None:
        """Waits as long as the deaths in a row ask for; a variant with too many of them makes way for the next."""
        variant = self._runnable[0]
        if restarts.is_loop(self._deaths) and len(self._runnable) > 1:
            text = f"{self._deaths} workers ended in a row without an answer between; the last: {why}"
            self._deaths = 0
            self._pass_over(variant, EdgedError(Code.CRASH_LOOP, text))
            return
        self._delay_s = restarts.delay_s(self._deaths, self.settings.restart_min_s, self.settings.restart_max_s)
        self._events.record(
            Severity.ERROR,
            why.code if isinstance(why, EdgedError) else Code.LOAD_FAILED,
            self.name,
            f"the worker of revision {self.revision} ended: {self.last_exit}",
            revision=self.revision,
            variant=variant.name,
            restart_s=self._delay_s,
        )
        loop = "in a crash loop, " if restarts.is_loop(self._deaths) else ""
        when = f"in {self._delay_s:g} s" if self._delay_s else "now"
        self._become(State.LOADING, f"{loop}its worker ended ({self.last_exit}); it is started again {when}")
        await asyncio.sleep(self._delay_s)
        self.restarts += 1

    def _lose(self, variant: Variant, worker: process.Worker) -> None:
        lost = Lost(variant, worker)
        self.lost.append(lost)

        def gone(_: object) -> None:
            self.lost.remove(lost)
            self.changes.mark()

        worker.gone.add_done_callback(gone)

    def answered(self) -> None:
        """A worker has answered: what died before is no row of deaths any more."""
        self._deaths = 0

    def _count_death(self, worker: process.Worker) -> None:
        if worker.verdict is not None and worker.verdict.code is Code.WORKER_HANG:
            self.hangs += 1
        else:
            self.crashes += 1

    @property
    def runnable(self) -> tuple[Variant, ...]:
        """The variants that may still run here, best first."""
        return tuple(self._runnable)

    @property
    def terms(self) -> Terms:
        """What its workers are started under."""
        return Terms(self.settings, self._hardware.memory_mib, self._make, self._max_answer_bytes, self._groups)

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
            f"variant {variant.name} of revision {self.revision} is passed over: {error}",
            revision=self.revision,
            variant=variant.name,
        )

    def _fail(self, reason: str) -> None:
        self._become(State.FAILED, reason)
        self._events.record(Severity.ERROR, "model_failed", self.name, reason, revision=self.revision)

    def _become(self, state: State, reason: str) -> None:
        if self.leaving and state not in (State.UNLOADING, State.UNAVAILABLE):
            return
        self.state, self.reason = state, reason
        self.changes.mark()


def _may_pass(error: EdgedError | OSError) -> bool:
    """Whether what kept a worker from coming up may be gone the next time: it was killed, or the device was short."""
    return isinstance(error, OSError) or error.code in (Code.WORKER_CRASHED, Code.WORKER_HANG)


def _is_hang(error: EdgedError | OSError) -> bool:
    """Whether trying again would cost the whole time limit again, which another variant may do better without."""
    return isinstance(error, EdgedError) and error.code is Code.WORKER_HANG
