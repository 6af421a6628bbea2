"""All of telemetry, put together: what the daemon starts, feeds with facts, asks and stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from edged import __version__, clock, log
from edged.changes import Changes
from edged.config import address
from edged.config.render import toml_value
from edged.config.settings import FIELDS, Settings
from edged.errors import EdgedError
from edged.events import Event, EventLog, Severity
from edged.facts import Fact, LevelEntered, WorkerRestarted
from edged.intents import Diagnostics, Done, Intent, Report, SetLogLevel
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.system import hardware, identity
from edged.telemetry import device, drift
from edged.telemetry.commander import Commander
from edged.telemetry.commands import Context, RejectedError, Rejection
from edged.telemetry.drift import Verdict
from edged.telemetry.messages import ServedModel, State
from edged.telemetry.mqtt import Message, Mqtt, Options
from edged.telemetry.recorder import NotKeptError, Recorder
from edged.telemetry.spool import Spool, Standing
from edged.telemetry.sync import Sync, Topics, will
from edged.telemetry.window import Window
from edged.types import Level, Limits

# What diagnostics give at most.
_MAX_EVENTS = 100
_MAX_TEXT = 300

CarryOut = Callable[[Intent], Awaitable[Done]]


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
    carry_out: CarryOut | None = None
    """Carries out what is not telemetry's own, such as what concerns updates."""


class Station:
    """The recorder, and the connection where a broker is set."""

    def __init__(self, parts: Parts) -> None:
        settings = parts.settings
        self._parts = parts
        self._os = device.os_name(parts.root)
        self._hardware = hardware.read(settings.device.hardware_class, parts.root)
        self.problem = ""
        """Why there is no connection to be had at all, for people."""
        self.topics = Topics(settings.device.fleet, settings.device.name, settings.device.hardware_class)
        if not self.topics.device:
            try:
                self.topics = msgspec.structs.replace(self.topics, device=identity.device_id(parts.root))
            except EdgedError as error:
                self.problem = str(error)
        folder = Path(settings.paths.state) / "telemetry"
        told = settings.telemetry
        self.recorder = Recorder(folder, told.spool_mib * 2**20, told.window_s, told.daily_write_mib * 2**20)
        self.recorder.closing = self._read_device
        self.recorder.closed = self._judge_drift
        self.recorder.set_aside = self._tell_damage
        self._drift: dict[tuple[str, str, str], Verdict] = {}
        self._level = parts.level()
        self._restarts: dict[tuple[str, int], int] = {}
        parts.events.listen(self._hear)
        self.mqtt: Mqtt | None = None
        self.sync: Sync | None = None
        self.commander: Commander | None = None

    @property
    def broker(self) -> str:
        """The broker's URL; empty: none is set."""
        return self._parts.settings.mqtt.broker

    def add(self, fact: Fact) -> None:
        """Takes a fact."""
        self.recorder.add(fact)

    def take(self, limits: Limits) -> None:
        """Writes no more than these limits allow."""
        self.recorder.limit(coarse=limits.save_space, held=limits.journal_only)

    def _hear(self, event: Event) -> None:
        if event.severity is not Severity.DEBUG:
            self.recorder.tell(event)

    def _read_device(self) -> None:
        for reading in device.readings(self._parts.root, Path(self._parts.settings.paths.state)):
            self.recorder.add(reading)
        for resident in self._parts.residency.all():
            key = (resident.name, resident.revision)
            for _ in range(resident.restarts - self._restarts.get(key, 0)):
                self.recorder.add(WorkerRestarted(resident.name))
            self._restarts[key] = resident.restarts

    def _judge_drift(self, window: Window) -> None:
        """Tells when the results of an output become, or cease to be, those of another population."""
        for model in window.models:
            for found in model.drift:
                key = (model.model, found.output, found.kind)
                verdict = drift.verdict(found.expected, found.counts)
                before = self._drift.get(key, Verdict.STEADY)
                if verdict in (Verdict.UNKNOWN, before):
                    continue
                self._drift[key] = verdict
                self._parts.events.record(
                    Severity.INFO if verdict is Verdict.STEADY else Severity.WARNING,
                    "output_drift",
                    model.model,
                    f"the {found.kind} of output {found.output} are {verdict} against the reference, were {before}",
                    index=round(drift.index(found.expected, found.counts), 3),
                    results=sum(found.counts),
                )

    def _tell_damage(self, why: str) -> None:
        self._parts.events.record(Severity.ERROR, "spool_damaged", "telemetry", why)

    async def run(self) -> None:
        """Records and, where a broker is set, reports and obeys, until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.recorder.run(), name="recorder")
                tasks.create_task(self._watch(), name="state changes")
                if self._parts.settings.mqtt.broker and not self.problem:
                    sync, commander = self._connect()
                    tasks.create_task(sync.run(), name="sync")
                    tasks.create_task(commander.run(), name="commander")
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
        mqtt = Mqtt(options, will, self._connection_changed, self._got)
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
        commander = Commander(
            self._context, operators, self.topics, self.recorder, mqtt, self._carry_out, self._parts.events
        )
        self.recorder.kept = sync.rows_came
        self.mqtt, self.sync, self.commander = mqtt, sync, commander
        mqtt.start()
        return sync, commander

    def _connection_changed(self) -> None:
        if self.sync is not None and self.commander is not None:
            self.sync.connection_changed()
            self.commander.connection_changed()

    def _got(self, message: Message) -> None:
        if self.commander is not None:
            self.commander.take(message)

    async def _watch(self) -> None:
        changes = self._parts.changes
        while True:
            count = changes.count
            if (level := self._parts.level()) != self._level:
                self._level = level
                self.recorder.add(LevelEntered(level, clock.monotonic()))
            if self.sync is not None:
                self.sync.state_changed()
            await changes.after(count)

    def _context(self) -> Context:
        return Context(
            fleet=self.topics.fleet,
            device=self.topics.device,
            hardware_class=self.topics.hardware_class,
            now_ms=int(clock.wall().timestamp() * 1000),
            unsigned_allowed=self._parts.settings.mqtt.unsigned_commands,
        )

    def state(self) -> State:
        """What is told of this device as a whole."""
        parts = self._parts
        return State(
            device=self.topics.device,
            fleet=self.topics.fleet,
            hardware_class=self.topics.hardware_class,
            memory_mib=self._hardware.memory_mib,
            accelerators=sorted(self._hardware.accelerators),
            version=__version__,
            engines={name: version for name, version in sorted(parts.runtimes.items()) if version},
            os=self._os,
            mode=parts.mode(),
            reasons=[reason[:_MAX_TEXT] for reason in parts.reasons()[:20]],
            level=parts.level(),
            models=[_served(resident) for resident in parts.residency.serving()],
        )

    async def standing(self) -> Standing | None:
        """How the spool is; None where it cannot be used now."""
        try:
            return await self.recorder.do(Spool.standing)
        except NotKeptError:
            return None

    async def _carry_out(self, intent: Intent) -> Done:
        match intent:
            case Report(fine=fine) if self.sync is not None:
                self.recorder.close_window()
                await self.recorder.store()
                self.sync.report(fine=fine)
                self.sync.state_changed()
                return Done("what is known is on its way")
            case Diagnostics():
                return Done("", self._diagnostics(await self.standing()))
            case SetLogLevel(level=level):
                log.configure(level, self._parts.settings.log.format)
                return Done(f"the log's level is {level} until the next start or reload")
        if self._parts.carry_out is not None:
            return await self._parts.carry_out(intent)
        name = intent.__struct_config__.tag
        raise RejectedError(Rejection.UNSUPPORTED, f"this edged has nobody who carries out {name}")

    def _diagnostics(self, standing: Standing | None) -> dict[str, object]:
        """State, recent events and settings. No setting is a secret: those are credentials, which are not read here."""
        events = self._parts.events.after(0, _MAX_EVENTS)
        return {
            "state": msgspec.to_builtins(self.state()),
            "spool": msgspec.to_builtins(standing),
            "settings": {field.key: toml_value(field.of(self._parts.settings)) for field in FIELDS},
            "events": [f"{each.at:%Y-%m-%dT%H:%M:%SZ} {each.code} {each.message[:_MAX_TEXT]}" for each in events],
        }


def _served(resident: Resident) -> ServedModel:
    return ServedModel(
        name=resident.name,
        revision=resident.revision,
        digest=resident.digest,
        variant=resident.variant.name if resident.ready and resident.variant else "",
        state=resident.state,
        reason=resident.reason[:_MAX_TEXT],
    )
