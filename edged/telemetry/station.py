"""All of telemetry, put together: what the daemon starts, feeds with facts, asks and stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from edged import clock, log
from edged.changes import Changes
from edged.config import address
from edged.config.render import toml_value
from edged.config.settings import FIELDS, Settings
from edged.errors import EdgedError
from edged.events import Event, EventLog, Severity
from edged.facts import Fact, LevelEntered, Reading, UpdatePhase, WorkerRestarted
from edged.intents import Done, Intent
from edged.models.residency import Residency
from edged.system import deployment, hardware, identity
from edged.system.os_requests import OsRequests, OsStatus
from edged.telemetry.answers import Answers
from edged.telemetry.carrying import Carrying, Executor
from edged.telemetry.commander import Commander
from edged.telemetry.commands import Context
from edged.telemetry.drift_watch import DriftWatch
from edged.telemetry.messages import State
from edged.telemetry.mqtt import Mqtt, Options
from edged.telemetry.orders import Order
from edged.telemetry.os_desk import OsDesk
from edged.telemetry.packet import Message
from edged.telemetry.recorder import NotKeptError, Recorder
from edged.telemetry.spool import Spool, Standing
from edged.telemetry.state import MAX_TEXT, Facts
from edged.telemetry.sync import Sync, Topics, will
from edged.telemetry.verifier import Verifier
from edged.telemetry.window import Window
from edged.types import Level, Limits, UpdateStanding

# What diagnostics give at most.
_MAX_EVENTS = 100
# How long the status of the operating system's helper, a small file, is waited for.
_READ_OS_S = 10.0


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon gives its telemetry."""

    settings: Settings
    """Their paths under the root."""
    root: Path
    residency: Residency
    runtimes: Mapping[str, str | None]
    events: EventLog
    changes: Changes
    mode: Callable[[], str]
    reasons: Callable[[], list[str]]
    level: Callable[[], Level]
    updates: Callable[[], Iterable[UpdateStanding]] = tuple
    """Where the update of each model stands."""
    collect: Callable[[], Iterable[Fact]] = tuple
    """What serving has counted of results since the last time."""
    built: datetime | None = None
    """When the image was built, as it says itself."""
    signed_time: Callable[[], datetime | None] = lambda: None
    """The newest signed time that was seen."""
    carry_out: Executor | None = None
    """Carries out what concerns revisions."""


class Station:
    """The recorder, and the connection where a broker is set."""

    def __init__(self, parts: Parts) -> None:
        settings = parts.settings
        self._parts = parts
        self.problem = ""
        """Why there is no connection to be had at all, for people."""
        self.topics = Topics(settings.device.fleet, settings.device.name, settings.device.hardware_class)
        if not self.topics.device:
            try:
                self.topics = msgspec.structs.replace(self.topics, device=identity.device_id(parts.root))
            except EdgedError as error:
                self.problem = str(error)
        self._settings = settings
        state = Path(settings.paths.state)
        self._facts = Facts(
            lambda: self.topics,
            hardware.read(settings.device.hardware_class, parts.root),
            parts.residency,
            parts.runtimes,
            parts.updates,
            parts.root,
        )
        self._os_requests = OsRequests(state, deployment.boot_id(parts.root))
        folder = state / "telemetry"
        told = settings.telemetry
        self.recorder = Recorder(folder, told.spool_mib * 2**20, told.window_s, told.daily_write_mib * 2**20)
        self.recorder.closing = self._read_device
        self.recorder.closed = self._window_closed
        self.recorder.now_ms = self._now_ms
        self.recorder.set_aside = self._tell_damage
        self._drift = DriftWatch(parts.events)
        self._level = parts.level()
        self._held = False
        """Nothing is to be written that nobody has signed for."""
        self._phases: dict[str, UpdateStanding] = {}
        self._restarts: dict[tuple[str, int], int] = {}
        self._window_ended = asyncio.Event()
        self._os_read: asyncio.Future[OsStatus | None] | None = None
        parts.events.listen(self._hear)
        self.mqtt: Mqtt | None = None
        self.sync: Sync | None = None
        self.commander: Commander | None = None
        self._answers: Answers | None = None
        self._desk: OsDesk | None = None

    @property
    def broker(self) -> str:
        """The broker's URL; empty: none is set."""
        return self._parts.settings.mqtt.broker

    def add(self, fact: Fact) -> None:
        """Takes a fact."""
        self.recorder.add(fact)

    def take(self, limits: Limits) -> None:
        """Writes no more than these limits allow."""
        self._held = limits.journal_only
        self.recorder.limit(coarse=limits.save_space, held=limits.journal_only)

    def _hear(self, event: Event) -> None:
        if event.severity is not Severity.DEBUG:
            self.recorder.tell(event)

    def _read_device(self) -> None:
        self._read_updates()
        for fact in self._parts.collect():
            self.recorder.add(fact)
        if self.recorder.used_bytes:
            self.recorder.add(Reading("spool_used_bytes", self.recorder.used_bytes))
        for resident in self._parts.residency.all():
            key = (resident.name, resident.revision)
            for _ in range(resident.restarts - self._restarts.get(key, 0)):
                self.recorder.add(WorkerRestarted(resident.name))
            self._restarts[key] = resident.restarts

    def _window_closed(self, window: Window) -> None:
        self._drift.judge(window)
        self._window_ended.set()

    def _tell_damage(self, why: str) -> None:
        self._parts.events.record(Severity.ERROR, "spool_damaged", "telemetry", why)

    def _tell_limit(self, what: str) -> None:
        self._parts.events.record(Severity.WARNING, "broker_limit", "telemetry", what)

    async def run(self) -> None:
        """Records and, where a broker is set, reports and obeys, until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.recorder.run(), name="recorder")
                tasks.create_task(self._watch(), name="state changes")
                tasks.create_task(self._follow_os(), name="operating system's images")
                if self._settings.mqtt.broker and not self.problem:
                    sync, commander = self._connect()
                    assert self._answers is not None  # noqa: S101 - narrows the types
                    assert self._desk is not None  # noqa: S101
                    tasks.create_task(self._answers.run(), name="answers")
                    tasks.create_task(self._desk.run(), name="operating system")
                    tasks.create_task(sync.run(), name="sync")
                    tasks.create_task(self._command(commander), name="commander")
        finally:
            if self.mqtt is not None:
                await self.mqtt.stop()
            await self.recorder.close()

    def _connect(self) -> tuple[Sync, Commander]:
        settings = self._parts.settings
        options = Options(
            broker=address.broker(settings.mqtt.broker),
            device=self.topics.device,
            username=settings.mqtt.username,
            files=identity.Files(Path(settings.mqtt.certificate), Path(settings.mqtt.key), Path(settings.mqtt.ca)),
            keep_alive_s=settings.mqtt.keep_alive_s,
            subscriptions=self.topics.commands,
            will_topic=self.topics.of("online"),
        )
        mqtt = Mqtt(options, will, self._connection_changed, self._got, self._tell_limit)
        sync = Sync(
            self.recorder,
            mqtt,
            self.topics,
            self.state,
            rows_per_minute=settings.mqtt.rows_per_minute,
            jitter_s=settings.mqtt.jitter_s,
            coarse=settings.telemetry.send == "hours",
        )
        operators = Path(settings.paths.state) / "update/plan/operators.json"
        answers = Answers(self.recorder, mqtt)
        carrying = Carrying(
            self._parts.residency,
            self._report,
            self._diagnostics,
            lambda level: log.configure(level, settings.log.format),
            self._hand_on,
            self._parts.carry_out,
        )
        commander = Commander(
            self._context,
            Verifier(operators),
            self.topics,
            self.recorder,
            answers,
            carrying.carry_out,
            self._parts.events,
        )
        self._desk = OsDesk(
            self._os_requests,
            commander.say,
            commander.answer,
            commander.keep,
            commander.open_nonces,
            self._parts.events,
            self.topics.device,
        )
        self._answers = answers
        self.recorder.kept = self._kept
        self.mqtt, self.sync, self.commander = mqtt, sync, commander
        mqtt.start()
        return sync, commander

    def _kept(self) -> None:
        if self.sync is not None:
            self.sync.rows_came()
        if self.commander is not None:
            self.commander.spool_works()
        if self._answers is not None:
            self._answers.spool_works()

    def _connection_changed(self) -> None:
        if self.sync is not None:
            self.sync.connection_changed()
        if self._answers is not None:
            self._answers.news()

    def _got(self, message: Message) -> None:
        if self.commander is not None:
            self.commander.take(message)

    async def _command(self, commander: Commander) -> None:
        """Obeys once the models that the device starts with are there."""
        while self._parts.mode() == "starting":
            await self._parts.changes.after(self._parts.changes.count)
        await commander.run()

    async def _watch(self) -> None:
        changes = self._parts.changes
        await self._read_os()
        while True:
            count = changes.count
            if (level := self._parts.level()) != self._level:
                self._level = level
                self.recorder.add(LevelEntered(level, clock.monotonic()))
            self._read_updates()
            if self.sync is not None:
                self.sync.state_changed()
            await changes.after(count)

    def _read_updates(self) -> None:
        for each in self._parts.updates():
            if self._phases.get(each.model) != each:
                self._phases[each.model] = each
                self.recorder.add(UpdatePhase(each.model, each.revision, each.phase))

    async def _follow_os(self) -> None:
        """Once a window: an upgrade is staged or booted without anybody telling."""
        while True:
            await self._window_ended.wait()
            self._window_ended.clear()
            before = self._facts.os_status
            await self._read_os()
            if self._facts.os_status != before and self.sync is not None:
                self.sync.state_changed()

    async def _read_os(self) -> None:
        """What cannot be read in time is read on, and not again meanwhile."""
        if self._os_read is None or self._os_read.done():
            self._os_read = asyncio.ensure_future(asyncio.to_thread(self._os_requests.status))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READ_OS_S):
                self._facts.os_status = await asyncio.shield(self._os_read)

    async def _context(self) -> Context:
        return Context(
            fleet=self.topics.fleet,
            device=self.topics.device,
            hardware_class=self.topics.hardware_class,
            now_ms=await asyncio.to_thread(self._now_ms),
            unsigned_allowed=self._settings.mqtt.unsigned_commands,
        )

    def now(self) -> datetime:
        """The time that commands are held against; it reads files, so it is nothing for the loop."""
        return clock.trusted(clock.wall(), self._parts.built, self._parts.signed_time())

    def _now_ms(self) -> int:
        return int(self.now().timestamp() * 1000)

    def state(self) -> State:
        """What is told of this device as a whole."""
        return self._facts.state(self._parts.mode(), self._parts.reasons(), self._parts.level())

    async def standing(self) -> Standing | None:
        """How the spool is; None where it cannot be used now."""
        try:
            return await self.recorder.do(Spool.standing)
        except NotKeptError:
            return None

    def apply(self, settings: Settings) -> None:
        """These settings hold from now on, as far as they can change while it runs."""
        self._settings = settings
        told, mqtt = settings.telemetry, settings.mqtt
        self.recorder.apply(told.window_s, told.daily_write_mib * 2**20)
        if self.sync is not None:
            self.sync.apply(mqtt.rows_per_minute, mqtt.jitter_s, coarse=told.send == "hours")

    async def _report(self, fine: bool) -> None:
        self.recorder.close_window()
        if not self._held:
            # What the thread is about must not be forgotten when the daemon stops just then.
            await asyncio.shield(asyncio.ensure_future(self.recorder.store()))
        await self._read_os()
        if self.sync is not None:
            self.sync.report(fine=fine)
            self.sync.state_changed()

    async def _hand_on(self, intent: Intent, order: Order) -> Done | None:
        assert self._desk is not None  # noqa: S101 - made with the commander
        return await self._desk.carry_out(intent, order)

    async def _diagnostics(self) -> dict[str, object]:
        """State, recent events and settings. No setting is a secret: those are credentials, which are not read here."""
        events = self._parts.events.after(0, _MAX_EVENTS)
        return {
            "state": msgspec.to_builtins(self.state()),
            "spool": msgspec.to_builtins(await self.standing()),
            "settings": {field.key: toml_value(field.of(self._settings)) for field in FIELDS},
            "events": [f"{each.at:%Y-%m-%dT%H:%M:%SZ} {each.code} {each.message[:MAX_TEXT]}" for each in events],
        }
