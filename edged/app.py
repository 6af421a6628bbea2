"""The composition root: makes the parts, wires them, and runs them from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from edged import __version__, clock, log
from edged.bundle import factory
from edged.changes import Changes
from edged.config.origin import Origin
from edged.config.settings import Settings
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.facts import Fact, LevelEntered
from edged.models.cache import Cache
from edged.models.deriving import Deriving
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.states import Source
from edged.models.workshop import Platform, Workshop
from edged.pressure import lookout
from edged.pressure.lookout import Lookout
from edged.rpc import admin, scrape, telemetry, updates, ways_in
from edged.rpc.connections import Connections
from edged.rpc.metrics import Metrics
from edged.rpc.server import Server, remove_leftovers
from edged.rpc.ways_in import Offer
from edged.runtimes.base import ENGINES
from edged.serving import report
from edged.serving.repository import Repository
from edged.serving.service import Service
from edged.system import background, folders, hardware, identity, outcome
from edged.system.current import Current
from edged.system.life import Life, Phase, watch_signals
from edged.system.notify import Notifier
from edged.system.starts import LIMIT, RETRY_S, SETTLED_S, Starts, supervised
from edged.telemetry import station
from edged.telemetry.station import Station
from edged.types import Limits
from edged.update import environment, issued, standing
from edged.update.agent import Agent
from edged.update.obeying import Obeying
from edged.update.opening import Parts, open_agent
from edged.worker import cgroup
from edged.worker.cgroup import Groups
from edged.worker.templates import Templates

# READY=1 waits for the first loads to come to an end, but not for ever: a slow model must not fail the start.
_FIRST_LOADS_S = 20.0

# What follows the drain at the end: workers are ended, telemetry is kept, the broker hears of it.
_AFTER_DRAIN_S = 50.0

# What a reply holds beside its tensors: names, shapes, parameters.
_MESSAGE_MARGIN_BYTES = 64 * 1024

# What picks, and numbers, the GPUs that CUDA shows to workers.
_CHOSEN_GPUS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


class App:
    """One daemon."""

    def __init__(self, settings: Settings, origin: Origin, wrong: Sequence[EdgedError]) -> None:
        """`settings` as written, their paths not yet under the root; `wrong`: why they are not those of the files."""
        self._placed = identity.named(settings.under(origin.root), origin.root)
        self._origin = origin
        self._changes = Changes()
        self._events = EventLog(settings.log.events_kept)
        self._life = Life(self._changes)
        self._current = Current(settings, origin, wrong, self._events, self._life)
        self._residency = Residency(self._changes)
        self._station: Station | None = None
        self._service = Service(self._residency, settings.serving, self._add_fact)
        self._templates = Templates(self._events)
        self._groups = cgroup.NONE
        self._runtimes = {name: engine.version() for name, engine in ENGINES.items()}
        self._lookout = self._make_lookout()
        self._environment = environment.read(self._runtimes)
        self._device = hardware.read(settings.device.hardware_class, origin.root)
        self._workshop = self._make_workshop()
        self._deriving = Deriving(self._residency, self._workshop)
        self._found: list[factory.Found] = []
        self._repository = Repository(self._residency, self._release, self._events)
        self._notifier = Notifier(os.environ)
        self._agent: Agent | None = None
        self._log = log.get("app")
        self._starts: Starts | None = None
        self._reachable_only = origin.unknown
        """Administrators reach it, and that is all."""
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Starts in order of dependence, serves until a signal, stops in reverse. Raises EdgedError at the start."""
        stop = self._stop
        async with contextlib.AsyncExitStack() as stack:
            self._take_folders(stack)
            self._count_start()
            self._groups = Groups.find()  # only now: the workers of a daemon that runs already are none of ours
            self._log.info("workers are held to their memory", by="watching" if self._groups.why_not else "the kernel")
            watch_signals(stop, self._reload)
            self._in_background(stack, "watchdog", self._notifier.keep_alive())  # fed until the very end
            stack.push_async_callback(self._templates.stop)
            stack.callback(self._service.close)
            stack.push_async_callback(self._residency.stop)
            if not self._reachable_only:
                await self._workshop.open()
                self._agent = self._open_agent()
                stack.push_async_callback(self._agent.close)
                self._station = self._open_station(self._agent)
                self._in_background(stack, "telemetry", self._station.run())
                await self._agent.begin()
                self._in_background(stack, "update agent", self._agent.run())
                told = outcome.report(self._origin.root, Path(self._placed.paths.state), self._events)
                self._in_background(stack, "outcome of the boot", told)
                self._in_background(stack, "building of variants", self._deriving.run())
                self._lookout.start(stack)
            for server in self._servers(stack):
                await server.start()
            await self._show_metrics(stack)
            stack.push_async_callback(self._drain)
            self._in_background(stack, "status line", self._tell())
            await self._start_up(stop)
            await stop.wait()
            self._log.info("stopping", phase=self._life.phase)
            if self._starts:
                self._starts.settle()
            self._life.enter(Phase.DRAINING)
            within_s = self._current.settings.serving.drain_s + _AFTER_DRAIN_S
            self._notifier.stopping("answering what is under way", within_s)

    def _take_folders(self, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
        listen = self._placed.listen
        sockets = [Path(socket).parent for socket in (listen.socket, listen.admin_socket)]
        for fault in folders.take(Path(self._placed.paths.state), sockets, stack):
            self._life.degrade(fault)
        for folder in sockets:
            remove_leftovers(folder)

    def _count_start(self) -> None:
        """After crashes in a row, comes up for administrators only, and tries again after a while."""
        if not supervised(os.environ):
            return
        loop = asyncio.get_running_loop()
        self._starts = Starts(Path(self._placed.listen.socket).parent / "starts")
        crashes = self._starts.begin()
        if crashes < LIMIT:
            loop.call_later(SETTLED_S, self._starts.settle)
            return
        self._reachable_only = True
        why = f"edged crashed {crashes} times in a row, so only administrators are served for {RETRY_S / 60:g} minutes"
        self._events.record(Severity.ERROR, Code.CRASH_LOOP, "edged", why)
        self._life.degrade(f"{why}; the log says more, and a restart by hand tries at once")
        loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        if self._starts:
            self._starts.retry()
            self._starts = None
        self._stop.set()

    def _in_background(self, stack: contextlib.AsyncExitStack, what: str, part: Coroutine[Any, Any, None]) -> None:
        background.run(stack, what, part, self._life.degrade)

    def _open_agent(self) -> Agent:
        """The agent, which also chooses what serves first."""
        self._found = self._factory(Path(self._placed.paths.factory))
        parts = Parts(
            root=self._origin.root,
            settings=self._placed,
            environment=self._environment,
            factory=self._found,
            residency=self._residency,
            memory=self._lookout.memory,
            traffic=self._service,
            events=self._events,
            changes=self._changes,
            make_resident=self._resident,
            level=lambda: self._service.level,
            drain_s=lambda: self._current.settings.serving.drain_s,
            degrade=self._life.degrade,
            recover=self._life.recover,
        )
        return open_agent(parts)

    def _open_station(self, agent: Agent) -> Station:
        return Station(
            station.Parts(
                settings=self._placed,
                root=self._origin.root,
                residency=self._residency,
                runtimes=self._runtimes,
                events=self._events,
                changes=self._changes,
                mode=lambda: report.mode(self._life, self._residency),
                reasons=lambda: report.degraded_reasons(self._life, self._residency),
                level=lambda: self._service.level,
                updates=lambda: standing.standings(agent),
                collect=self._service.collect,
                built=agent.shop.build_time,
                signed_time=lambda: issued.known(Path(self._placed.paths.state) / "update/metadata"),
                carry_out=Obeying(agent).carry_out,
            )
        )

    def _add_fact(self, fact: Fact) -> None:
        if self._station is not None:
            self._station.add(fact)

    def _factory(self, folder: Path) -> list[factory.Found]:
        """The bundles that the image brought; what is wrong with one is told."""
        found = factory.discover(folder)
        for each in found:
            if each.error is not None:
                self._events.record(Severity.ERROR, each.error.code, each.model or "factory", str(each.error))
                name = each.folder.relative_to(folder)
                self._life.degrade(f"factory bundle {name} is not usable: {each.error.in_a_line()}")
        return found

    def _resident(self, source: Source) -> Resident:
        return Resident(
            source,
            self._device,
            self._runtimes,
            self._current.settings.workers,
            self._changes,
            self._events,
            self._templates.make,
            self._current.settings.listen.max_message_bytes - _MESSAGE_MARGIN_BYTES,
            self._groups,
            self._lookout.memory,
            self._workshop,
        )

    def _know_factory(self) -> None:
        """The image's other revisions may be asked for too."""
        for found in self._found:
            if found.manifest is not None:
                self._residency.know(self._resident(Source(found.folder, found.manifest, "factory")))

    def _make_workshop(self) -> Workshop:
        quota_bytes, reserve_bytes = self._placed.workers.derived_mib * 2**20, self._placed.update.reserve_mib * 2**20
        return Workshop(
            Cache(Path(self._placed.paths.cache) / "derived", quota_bytes, reserve_bytes),
            Platform(
                self._runtimes,
                f"{self._environment.driver} {self._environment.os_image}",
                self._device.instruction_sets,
                (*hardware.gpus(self._origin.root), *(os.environ.get(name, "") for name in _CHOSEN_GPUS)),
            ),
            self._events,
            self._changes,
            lambda: [resident.manifest for resident in self._residency.all()],
        )

    def _make_lookout(self) -> Lookout:
        return Lookout(
            lookout.Parts(
                root=self._origin.root,
                state=Path(self._placed.paths.state),
                residency=self._residency,
                runtimes=self._runtimes,
                templates=self._templates.warm_pids,
                events=self._events,
                life=self._life,
                busy_s=self._service.busy_s,
                idle_s=self._service.idle_s,
                proven=self._service.proven,
                take=self._take_limits,
                tell=self._add_fact,
            ),
            self._current.settings.pressure,
        )

    def _take_limits(self, limits: Limits) -> None:
        if limits.level is not self._service.level:
            self._add_fact(LevelEntered(limits.level, clock.monotonic()))
        self._service.limit(limits)
        self._deriving.take(limits)
        if self._agent is not None:
            self._agent.take(limits)
        if self._station is not None:
            self._station.take(limits)

    def _servers(self, stack: contextlib.AsyncExitStack) -> list[Server]:
        """The servers of all ways in; stopped with `stack`."""
        stack.push_async_callback(self._repository.stop)
        hardware_class = self._current.settings.device.hardware_class
        calls = admin.Admin(self._service, self._residency, self._life, self._events, hardware_class)
        administration = {admin.SERVICE: calls.methods()}
        if self._station is not None:
            administration[telemetry.SERVICE] = telemetry.Telemetry(self._station).methods()
        if self._agent is not None:
            administration[updates.SERVICE] = updates.Updates(self._agent).methods()
        offer = Offer(self._service, self._repository, self._events, self._changes, administration)
        made = ways_in.servers(offer, self._placed.listen, stack, administrators_only=self._reachable_only)
        self._life.listening = list(made)
        bound = [name for server in made.values() for name in server.bound]
        self._in_background(stack, "watch over connections", Connections(bound, self._events).run())
        return list(made.values())

    async def _show_metrics(self, stack: contextlib.AsyncExitStack) -> None:
        """Where settings ask for it."""
        where = self._current.settings.listen.metrics
        if not where or self._reachable_only:
            return
        hardware_class = self._current.settings.device.hardware_class
        metrics = Metrics(self._service, self._residency, self._life, self._templates, hardware_class)
        self._life.listening += await scrape.show(stack, where, metrics.page, self._events, self._life.degrade)

    async def _release(self, resident: Resident) -> bool:
        return await self._service.release(resident, self._current.settings.serving.drain_s)

    async def _start_up(self, stop: asyncio.Event) -> None:
        """Says READY=1 when every model is loaded or has failed, at the latest after _FIRST_LOADS_S."""
        either = [asyncio.create_task(part) for part in (self._first_choices(), stop.wait())]
        await asyncio.wait(either, timeout=_FIRST_LOADS_S, return_when=asyncio.FIRST_COMPLETED)
        await background.end(either)
        self._know_factory()
        if stop.is_set():
            return
        self._life.enter(Phase.RUNNING)
        self._current.remember(self._current.settings)
        self._notifier.ready(report.summary(self._life, self._residency))
        self._events.record(
            Severity.INFO,
            "started",
            "edged",
            f"edged {__version__} serves: {report.summary(self._life, self._residency)}",
            listening=", ".join(self._life.listening),
        )

    async def _first_choices(self) -> None:
        """Waits until it is chosen what serves, and loaded or not to be."""
        if self._agent is not None:
            await self._agent.begun()

    async def _tell(self) -> None:
        """Keeps the line that `systemctl status` shows."""
        while True:
            count = self._changes.count
            if self._life.phase is Phase.RUNNING:
                self._notifier.status(report.summary(self._life, self._residency))
            await self._changes.after(count)

    async def _drain(self) -> None:
        limit_s = self._current.settings.serving.drain_s
        if not await self._service.drain(limit_s):
            self._events.record(
                Severity.WARNING, "drain_incomplete", "edged", f"requests were still under way after {limit_s:g} s"
            )

    def _reload(self) -> None:
        """SIGHUP: reads the settings again, takes what can change, says what cannot."""
        if self._life.phase is Phase.DRAINING:
            return
        running = self._life.phase is Phase.RUNNING
        if running:
            self._notifier.reloading()
        try:
            self._current.read_again(self._take)
        finally:  # the service manager waits for it, whatever happened
            if running:
                self._notifier.ready(report.summary(self._life, self._residency))

    def _take(self, new: Settings) -> None:
        if self._reachable_only:  # what was wrong may be mended: the service manager starts it again, in full
            self._stop.set()
            return
        settings = self._current.take(new)
        log.configure(settings.log.level, settings.log.format)
        self._service.apply(settings.serving)
        if self._agent is not None:
            self._agent.shop.settings = settings.under(self._origin.root).update
        for resident in self._residency.known():
            resident.settings = settings.workers
        self._lookout.apply(settings.pressure)
        if self._station is not None:
            self._station.apply(settings.under(self._origin.root))
        self._changes.mark()
