"""The composition root: makes the parts, wires them, and runs them from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edged import __version__, log
from edged.bundle import factory
from edged.changes import Changes
from edged.config import last_good, reload
from edged.config.load import load
from edged.config.settings import Listen, Settings
from edged.document import DocumentError
from edged.errors import EdgedError
from edged.events import EventLog, Severity
from edged.facts import Fact
from edged.models.residency import Residency
from edged.models.resident import Resident, Source
from edged.rpc import admin, health, inference, reflection, telemetry
from edged.rpc.server import Methods, Server, Tls, remove_leftovers
from edged.runtimes.base import ENGINES
from edged.serving import report
from edged.serving.service import Service
from edged.system import hardware
from edged.system.folders import FolderLock, Lock, keep_private, make_folder, open_to_all
from edged.system.life import Life, Phase, watch_signals
from edged.system.notify import Notifier
from edged.telemetry.station import Parts, Station
from edged.types import Level
from edged.worker import cgroup
from edged.worker.cgroup import Groups
from edged.worker.templates import Templates

# READY=1 waits for the first loads to come to an end, but not for ever: a slow model must not fail the start.
_FIRST_LOADS_S = 20.0

# What a reply holds beside its tensors: names, shapes, parameters.
_MESSAGE_MARGIN_BYTES = 64 * 1024

# What calls under way get once the requests they carried are answered or given up.
_CLOSE_S = 1.0


class Origin(msgspec.Struct, frozen=True):
    """Where the settings came from, so that they can be read again."""

    root: Path
    files: tuple[Path, ...]

    @property
    def last_good(self) -> Path:
        """Where the last good settings from these files are kept."""
        return last_good.place(self.root, self.files)


class App:
    """One daemon."""

    def __init__(self, settings: Settings, origin: Origin, wrong: Sequence[EdgedError]) -> None:
        """`settings` as written, their paths not yet under the root; `wrong`: why they are not those of the files."""
        self._settings = settings
        self._placed = settings.under(origin.root)
        self._origin = origin
        self._changes = Changes()
        self._events = EventLog(settings.log.events_kept)
        self._life = Life(self._changes)
        self._residency = Residency(self._changes)
        self._templates = Templates(self._events)
        self._groups = cgroup.NONE
        self._service = Service(self._residency, settings.serving, self._add_fact)
        self._station: Station | None = None
        self._notifier = Notifier(os.environ)
        self._log = log.get("app")
        self._doubts: list[str] = []
        for error in wrong:
            what = "the settings are wrong, so the last good ones hold"
            self._events.record(Severity.ERROR, error.code, "settings", f"{what}:\n{error}")
            self._doubts.append(f"{what}: {_in_a_line(error)}")
            self._life.degrade(self._doubts[-1])

    async def run(self) -> None:
        """Starts in order of dependence, serves until a signal, stops in reverse. Raises EdgedError at the start."""
        stop = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            self._take_folders(stack)
            self._groups = Groups.find()  # only now: the workers of a daemon that runs already are none of ours
            self._log.info("workers are held to their memory", by="watching" if self._groups.why_not else "the kernel")
            watch_signals(stop, self._reload)
            self._in_background(stack, "watchdog", self._notifier.keep_alive())  # fed until the very end
            stack.push_async_callback(self._templates.stop)
            stack.push_async_callback(self._residency.stop)
            self._station = self._open_station()
            self._in_background(stack, "telemetry", self._station.run())
            self._load_models()
            for server in self._servers(stack):
                await server.start()
            stack.push_async_callback(self._drain)
            self._in_background(stack, "status line", self._tell())
            await self._start_up(stop)
            await stop.wait()
            self._log.info("stopping", phase=self._life.phase)
            self._life.enter(Phase.DRAINING)
            self._notifier.stopping("answering what is under way")

    def _take_folders(self, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
        listen, paths = self._placed.listen, self._placed.paths
        state = Path(paths.state)
        make_folder(state, 0o700)
        if fault := keep_private(state):
            self._life.degrade(fault)
        for socket in (listen.socket, listen.admin_socket):
            folder = Path(socket).parent
            make_folder(folder, 0o750)
            if fault := open_to_all(folder):
                self._life.degrade(fault)
            stack.callback(Lock(folder / "edged.lock").release)
            remove_leftovers(folder)
        stack.callback(FolderLock(state).release)

    def _in_background(self, stack: contextlib.AsyncExitStack, what: str, part: Coroutine[Any, Any, None]) -> None:
        """Runs `part` until the stack is left. Its end by a defect is told, since nobody else would notice."""
        task = asyncio.create_task(part, name=what)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._log.error("a part of edged has ended by a defect", what=what, exc_info=error)
                self._life.degrade(f"the {what} has ended by a defect of edged; its log says more")

        task.add_done_callback(ended)
        stack.push_async_callback(_end, [task])

    def _open_station(self) -> Station:
        return Station(
            Parts(
                settings=self._placed,
                root=self._origin.root,
                residency=self._residency,
                runtimes={name: engine.version() for name, engine in ENGINES.items()},
                events=self._events,
                changes=self._changes,
                mode=lambda: report.mode(self._life, self._residency),
                reasons=lambda: report.degraded_reasons(self._life, self._residency),
                level=lambda: Level.NOMINAL,
            )
        )

    def _add_fact(self, fact: Fact) -> None:
        if self._station is not None:
            self._station.add(fact)

    def _load_models(self) -> None:
        """Starts the newest sound bundle of each factory model."""
        runtimes = {name: engine.version() for name, engine in ENGINES.items()}
        device = hardware.read(self._settings.device.hardware_class)
        folder = Path(self._placed.paths.factory)
        for found in factory.discover(folder):
            if found.error is not None:
                self._events.record(Severity.ERROR, found.error.code, found.model or "factory", str(found.error))
                name = found.folder.relative_to(folder)
                self._life.degrade(f"factory bundle {name} is not usable: {_in_a_line(found.error)}")
            elif found.manifest is not None and found.manifest.name not in self._residency.routes:
                source = Source(found.folder, found.manifest, "factory")
                resident = Resident(
                    source,
                    device,
                    runtimes,
                    self._settings.workers,
                    self._changes,
                    self._events,
                    self._templates.make,
                    self._settings.listen.max_message_mib * 2**20 - _MESSAGE_MARGIN_BYTES,
                    self._groups,
                )
                self._residency.add(resident)

    def _servers(self, stack: contextlib.AsyncExitStack) -> list[Server]:
        """Two servers, since grpc offers all services of one on all its addresses; stopped with `stack`."""
        listen = self._placed.listen
        protocol = {inference.SERVICE: inference.Inference(self._service).methods()}
        administration = {
            admin.SERVICE: admin.Admin(
                self._service, self._residency, self._life, self._events, self._settings.device.hardware_class
            ).methods(),
            **({telemetry.SERVICE: telemetry.Telemetry(self._station).methods()} if self._station else {}),
        }
        public = self._server(protocol, listen)
        stack.push_async_callback(public.stop, _CLOSE_S)
        public.add_socket(Path(listen.socket))
        if listen.tcp:
            public.add_tcp(listen.tcp, _tls(listen))
        private = self._server({**protocol, **administration}, listen)
        stack.push_async_callback(private.stop, _CLOSE_S)
        private.add_socket(Path(listen.admin_socket))
        self._life.listening = [
            f"unix:{listen.socket}",
            f"unix:{listen.admin_socket}",
            *([listen.tcp] if listen.tcp else []),
        ]
        return [public, private]

    def _server(self, services: Mapping[str, Methods], listen: Listen) -> Server:
        names = [*services, health.SERVICE]
        offered = {
            **services,
            health.SERVICE: health.Health(self._service, self._changes, names).methods(),
            **{name: reflection.methods(names) for name in reflection.SERVICES},
        }
        return Server(offered, listen.max_message_mib * 1024 * 1024)

    async def _start_up(self, stop: asyncio.Event) -> None:
        """Says READY=1 when every model is loaded or has failed, at the latest after _FIRST_LOADS_S."""
        either = [asyncio.create_task(part) for part in (self._first_loads(), stop.wait())]
        await asyncio.wait(either, timeout=_FIRST_LOADS_S, return_when=asyncio.FIRST_COMPLETED)
        await _end(either)
        if stop.is_set():
            return
        self._life.enter(Phase.RUNNING)
        self._remember_settings(self._settings)
        self._notifier.ready(report.summary(self._life, self._residency))
        self._events.record(
            Severity.INFO,
            "started",
            "edged",
            f"edged {__version__} serves: {report.summary(self._life, self._residency)}",
            listening=", ".join(self._life.listening),
        )

    async def _first_loads(self) -> None:
        while not all(resident.settled for resident in self._residency.all()):
            await self._changes.after(self._changes.count)

    async def _tell(self) -> None:
        """Keeps the line that `systemctl status` shows."""
        while True:
            count = self._changes.count
            if self._life.phase is Phase.RUNNING:
                self._notifier.status(report.summary(self._life, self._residency))
            await self._changes.after(count)

    async def _drain(self) -> None:
        limit_s = self._settings.serving.drain_s
        if not await self._service.drain(limit_s):
            self._events.record(
                Severity.WARNING, "drain_incomplete", "edged", f"requests were still under way after {limit_s:g} s"
            )

    def _remember_settings(self, settings: Settings) -> None:
        if self._doubts:
            return
        try:
            self._origin.last_good.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            last_good.remember(self._origin.last_good, settings)
        except OSError as error:
            self._events.record(
                Severity.WARNING,
                "settings_not_kept",
                "edged",
                f"the settings cannot be kept for a start with broken ones: {error}",
            )

    def _reload(self) -> None:
        """SIGHUP: reads the settings again, takes what can change, says what cannot."""
        if self._life.phase is Phase.DRAINING:
            return
        running = self._life.phase is Phase.RUNNING
        if running:
            self._notifier.reloading()
        try:
            self._take(load(self._origin.root, self._origin.files).settings)
        except EdgedError as error:
            self._events.record(
                Severity.ERROR, error.code, "settings", f"nothing was changed; the settings are wrong:\n{error}"
            )
        finally:  # the service manager waits for it, whatever happened
            if running:
                self._notifier.ready(report.summary(self._life, self._residency))

    def _take(self, new: Settings) -> None:
        while self._doubts:
            self._life.recover(self._doubts.pop())
        for change in reload.changes(self._settings, new):
            text = f"{change.key} is now {change.new!r}, was {change.old!r}"
            if change.applies:
                self._events.record(Severity.INFO, "setting_changed", change.key, text)
            else:
                self._events.record(
                    Severity.WARNING, "restart_needed", change.key, f"{text}; this takes effect when edged is restarted"
                )
        self._settings = reload.applied(self._settings, new)
        self._remember_settings(new)
        log.configure(self._settings.log.level, self._settings.log.format)
        self._service.apply(self._settings.serving)
        for resident in self._residency.all():
            resident.settings = self._settings.workers
        self._changes.mark()


def _tls(listen: Listen) -> Tls | None:
    if not listen.tls_certificate:
        return None
    return Tls(Path(listen.tls_certificate), Path(listen.tls_key), Path(listen.tls_client_ca))


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def settings_for_start(origin: Origin) -> tuple[Settings, list[EdgedError]]:
    """The settings to run on, and why they are not those of the files where they are not.

    Raises EdgedError when the files are wrong and no good settings are remembered, or a path cannot be used at all.
    """
    try:
        return load(origin.root, origin.files).settings, []
    except DocumentError as error:
        remembered = last_good.recall(origin.last_good, origin.root)
        if remembered is None:
            raise
        return remembered, [error]


def _in_a_line(error: EdgedError) -> str:
    """The first of its problems, and how many there are."""
    first, *others = str(error).splitlines()
    return f"{first} (and {len(others)} more)" if others else first
