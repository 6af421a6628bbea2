"""One model revision kept up: its variant chosen and changed, its worker started, and started again when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from edged import log
from edged.bundle.manifest import Variant, digest
from edged.changes import Changes
from edged.config.settings import Workers
from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.models import restarts
from edged.models.choosing import Choice
from edged.models.deaths import Deaths
from edged.models.lives import Life
from edged.models.loading import Terms, start_worker
from edged.models.losses import Losses
from edged.models.memory import Memory
from edged.models.renewing import Refusal, Renewal
from edged.models.resting import Rest
from edged.models.states import Source, State
from edged.models.telling import Telling
from edged.models.want import Want
from edged.models.workshop import Workshop
from edged.system.hardware import Hardware
from edged.worker import cgroup, process
from edged.worker.cgroup import Groups
from edged.worker.child import Exit
from edged.worker.templates import Maker

_log = log.get("models")

# How long an idle worker may take to go once its link is closed.
_STOP_GRACE_S = 2.0


class Resident:
    """One model revision: it chooses a variant, starts its worker, and starts it again when it dies.

    It may be told to prefer another variant, whose worker is then started beside the one that serves and takes its
    place when it is ready; and to rest, without a worker, until somebody asks for it.
    """

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
        memory: Memory | None = None,
        workshop: Workshop | None = None,
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
        self.lost = Losses(changes)
        self.begun = False
        """Whether it was ever to be loaded."""
        self.leaving = False
        """Whether it is to go: what waits is still answered, and nothing new is taken."""
        self._changing = False
        """Whether a worker answers what it has and ends, or another is loaded to take its place."""
        self._told = asyncio.Event()
        """Set when it is to look again at what it is to run."""
        self._rests = Rest(self._told)
        self.renewal = Renewal(self._told)
        self.choice = Choice(source.manifest, hardware, runtimes, self._told.set, workshop)
        self._telling = Telling(events, source.manifest)
        self.max_answer_bytes = max_answer_bytes
        """What the outputs of one answer may take; 0: no bound."""
        self.deaths = Deaths()
        self.trouble: EdgedError | None = None
        """What the last worker that ended, or did not come up, is blamed for."""
        self._memory = memory or Memory()
        self._terms = Terms(settings, hardware.memory_mib, make, max_answer_bytes, groups, self._memory, workshop)
        self._served = False
        self._want = Want(self.choice)
        self._delay_s = 0.0
        self._life = Life()

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
        """Whether it answers now or shortly: its worker is on its way back, or will be when it is asked."""
        just_ended = self.state is State.READY  # what follows from that is not decided yet
        returns = self.loading and self._served and restarts.is_soon(self._delay_s)
        return just_ended or self.resting or returns

    @property
    def loading(self) -> bool:
        """Whether its first worker, or the next after one that ended, is still on its way."""
        return self.state is State.LOADING

    @property
    def settled(self) -> bool:
        """Whether its first load has come to an end, good or bad."""
        return not self.loading or self.deaths.in_a_row > 0 or self._want.refusals > 0

    @property
    def resting(self) -> bool:
        """Whether it has no worker for now, and requests are taken all the same."""
        return bool(self._rests) and not self.leaving

    @property
    def steady(self) -> bool:
        """Whether it answers, and is not about to do so from another worker: only then can it be told to rest."""
        return self.ready and not self._changing and not self.leaving and not self._rests

    @property
    def degraded(self) -> bool:
        """Whether something else than the bundle's best variant answers."""
        return self.ready and self.variant is not self.manifest.variants[0]

    @property
    def loaded(self) -> bool:
        """Whether it is loaded, or on its way to be."""
        return self.begun and not self.leaving

    def start(self) -> None:
        """Begins to load, or to load again once it has been stopped: every variant has its chance anew."""
        if self.begun:
            self.choice.anew()
            self.deaths.forgive()
            self._served, self._want.refusals, self._delay_s = False, 0, 0.0
        self._rests.end()
        self._begin(State.LOADING, "")

    def start_standing_by(self, why: str) -> None:
        """As `start`, but it loads only when it takes over, and requests wait for that."""
        self._rests.begin(why, stands_by=True)
        self._served = True
        self._begin(State.UNAVAILABLE, self._rests.text)

    def _begin(self, state: State, reason: str) -> None:
        self.begun, self.leaving = True, False
        self._become(state, reason)
        self._life.begin(self._live, f"resident {self.name}")

    def rest(self, why: str, *, stands_by: bool = False) -> bool:
        """Gives its worker's memory back once that has answered what it has; `wake` brings it back. Whether it will."""
        if self.steady or (stands_by and self.resting):
            self._rests.begin(why, stands_by=stands_by)
            return True
        return False

    async def stand_by(self, why: str) -> bool:
        """Gives up loading until `wake`, since it may never come up; requests wait. False where it has a worker."""
        if self.worker is not None or self._changing or self.leaving:
            return False
        self.variant = None
        if not self.choice.runnable:  # it has failed, and has another chance once it takes over
            self.choice.anew()
        if self.choice.runnable:
            # At once: nobody who waits is refused meanwhile, nor is it lost where the caller gives up.
            self.start_standing_by(why)
            await self._life.begun()
        return True

    def wake(self, *, takes_over: bool = False, why: str = "") -> None:
        """Loads again what rests, where `why` is given only for that; what stands by only where it takes over."""
        if self._rests and (takes_over or not self._rests.stands_by) and why in ("", self._rests.why):
            self._rests.end()
            self._delay_s = 0.0
            if not self.ready:
                self._become(State.LOADING, "")

    def leave(self, why: str) -> None:
        """Takes nothing new from now on; `stop` follows when what waits is answered."""
        self.leaving = True
        self._become(State.UNLOADING, why)

    async def stop(self, why: str = "unloaded") -> bool:
        """Ends the worker, even where the caller gives up; `why` is told from then on. What waits is not waited for.

        Not so, and False, where somebody starts it again meanwhile.
        """
        self._become(State.UNLOADING, self.reason if self.leaving else why)
        if not await self._life.end():
            return False
        self.variant = None
        self._rests.end()
        self._become(State.UNAVAILABLE, why)
        return True

    async def _live(self) -> None:
        """Keeps a worker up. A defect here costs this model and no other."""
        try:
            await self._keep_up()
        except Exception:  # noqa: BLE001 - logged, and told in the model's state
            _log.exception("a model met a defect of edged", model=self.name, revision=self.revision)
            self._fail("a defect of edged; its log says more")

    async def _keep_up(self) -> None:
        while self.choice.runnable:
            await self._rests.over()
            if await self._load(self.choice.variant) is None:
                continue
            try:
                ended = await self._serve()
            except asyncio.CancelledError:
                worker, self.worker = self.worker, None
                if worker is not None and self.variant is not None:
                    await self._end(self.variant, worker, worker.stop)
                raise
            finally:
                self._changing = False
            if ended is None:  # it rests
                continue
            how, worker, variant = ended
            self.worker = None
            if not self._rests.stands_by:
                self._rests.end()
            self.last_exit = how.text
            if self.leaving:  # what waited is told that it is gone
                self.changes.mark()
                return
            self._become(State.LOADING, f"its worker ended ({how.text})")
            if not worker.excused:
                self.deaths.add(worker.verdict)
            self.trouble = verdict = worker.verdict or EdgedError(Code.WORKER_CRASHED, f"its worker ended: {how.text}")
            if how.lost:
                self.lost.add(variant, worker)
                self._pass_over(variant, verdict)
            else:
                await self._come_back(variant, verdict)
        self._fail(f"no variant can run here: {self.choice.objections}")

    async def _serve(self) -> tuple[Exit, process.Worker, Variant] | None:
        """Until the worker ends, which may be another by then; None when it has gone to rest."""
        while True:
            worker, variant = self.worker, self.variant
            assert worker is not None and variant is not None  # noqa: S101, PT018 - narrows the types
            told = asyncio.ensure_future(self._told.wait())
            either: list[asyncio.Future[Any]] = [worker.ended, told]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                told.cancel()
            self._told.clear()
            if worker.ended.done():
                return worker.ended.result(), worker, variant
            if self._rests:
                await self._rest(variant, worker)
                return None
            if (wanted := self.choice.variant) is not variant or self.renewal.asked:
                self._changing = True
                self.renewal.end(await self._change(variant, worker, wanted))
                self._changing = False

    async def _rest(self, variant: Variant, worker: process.Worker) -> None:
        why = self._rests.why
        self.worker = None
        self._become(State.UNAVAILABLE, self._rests.text)
        self._changing = True
        await self._end(variant, worker, worker.retire)
        self.variant = None
        self._telling.rests(variant, why)
        self.changes.mark()

    async def _change(self, variant: Variant, worker: process.Worker, wanted: Variant) -> Refusal:
        """Loads `wanted` beside the worker that serves, and has it take that one's place."""
        try:
            other = await start_worker(self.source.folder, self.manifest, wanted, self.terms)
        except (EdgedError, OSError) as error:
            if not (restarts.is_want(error) and self._want.refusals):
                self._telling.kept(variant, wanted, error)
            self.changes.mark()
            if wanted is variant:
                self.lost.keep(wanted, error)
                return error
            if restarts.is_want(error):
                self.choice.spare(wanted, error)
                self._want.ask_again_later(self.settings)
            elif restarts.is_at_fault(error):
                self._pass_over(wanted, error)
            return error
        why = self.renewal.why or self.choice.because or "nothing speaks against it any more"
        self._take_up(wanted, other, f" instead of {variant.name}: {why}")
        await self._end(variant, worker, worker.retire)
        return None

    async def _end(self, variant: Variant, worker: process.Worker, end: Callable[[float], Awaitable[Exit]]) -> None:
        self._memory.measure(self.manifest, variant, worker)
        if (await end(_STOP_GRACE_S)).lost:
            self.lost.add(variant, worker)

    async def _load(self, variant: Variant) -> process.Worker | None:
        """A worker of `variant`, ready; None when it does not load, which is then dealt with."""
        try:
            worker = await start_worker(self.source.folder, self.manifest, variant, self.terms)
        except (EdgedError, OSError) as error:
            self.trouble = error if isinstance(error, EdgedError) else EdgedError(Code.LOAD_FAILED, str(error))
            again = restarts.may_pass(error) and (self.choice.runnable == [variant] or not restarts.is_hang(error))
            if restarts.is_want(error):
                await self._do_without(variant, error)
            elif again:
                self.last_exit = str(error)
                self.deaths.add_loading(error)
                await self._come_back(variant, error)
            elif restarts.is_at_fault(error) or restarts.is_hang(error):
                self._pass_over(variant, error)
            return None
        self._take_up(variant, worker)
        return worker

    def _take_up(self, variant: Variant, worker: process.Worker, instead_of: str = "") -> None:
        """Has `worker` answer from now on."""
        self.worker, self.variant, self._served = worker, variant, True
        self._want.met(self.settings)
        self._become(State.READY, "")
        self._telling.ready(variant, worker, instead_of)

    async def _do_without(self, variant: Variant, why: EdgedError) -> None:
        """The next variant has its chance; where none can be had, they are asked for again after a while."""
        if not self._want.refusals:
            self._telling.refused(variant, why)
        if self._want.spared(variant, why):
            return
        self._delay_s = self._want.wait_s(self.settings)
        self._become(State.LOADING, f"{why.message}; it is asked for again in {self._delay_s:g} s")
        await asyncio.sleep(self._delay_s)

    async def _come_back(self, variant: Variant, why: EdgedError | OSError) -> None:
        """Waits as long as the deaths in a row ask for; a variant with too many of them makes way for the next."""
        deaths = self.deaths.in_a_row
        if restarts.is_loop(deaths) and len(self.choice.runnable) > 1:
            text = f"{deaths} workers ended in a row without an answer between; the last: {why}"
            self.deaths.forgive()
            self._pass_over(variant, EdgedError(Code.CRASH_LOOP, text))
            return
        self._delay_s = restarts.delay_s(deaths, self.settings.restart_min_s, self.settings.restart_max_s)
        self._telling.ended(variant, self.last_exit, why, self._delay_s)
        self._become(State.LOADING, restarts.in_words(deaths, self.last_exit, self._delay_s))
        await asyncio.sleep(self._delay_s)
        self.restarts += 1

    def answered(self) -> None:
        """A worker has answered."""
        self.deaths.forgive()

    @property
    def terms(self) -> Terms:
        """What its workers are started under."""
        return msgspec.structs.replace(self._terms, settings=self.settings)

    def _pass_over(self, variant: Variant, error: EdgedError | OSError) -> None:
        self.lost.keep(variant, error)
        self.choice.pass_over(variant, error)
        self._telling.passed_over(variant, error)

    def _fail(self, reason: str) -> None:
        self._rests.end()
        self._become(State.FAILED, reason)
        self._telling.failed(reason)

    def _become(self, state: State, reason: str) -> None:
        if self.leaving and state not in (State.UNLOADING, State.UNAVAILABLE):
            return
        self.state, self.reason = state, reason
        self.changes.mark()
