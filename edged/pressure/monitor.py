"""Looks at the sensors when it is worth it, lets the governor decide, and tells what may be taken.

It sleeps as long as the device is idle, the longer the cooler it is, looks each second when it is at work or something
is pressed, and twice a second while heat is held back. A look wakes the loop twice: to begin, and with what was read.
The kernel's stall triggers wake it at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from edged import clock, log
from edged.events import EventLog, Severity
from edged.facts import Fact
from edged.pressure import stall, telling
from edged.pressure.governor import CPU, IO, MEMORY, THERMAL, Cause, Decision, Governor, State
from edged.pressure.levels import severity
from edged.pressure.reader import Reader
from edged.pressure.readings import Readings
from edged.pressure.sensors import Sensors
from edged.pressure.stall import Triggers
from edged.pressure.trace import Recorder
from edged.pressure.tracing import Tracing
from edged.types import Level, Limits

# How long sensors may take together; what is slower is told, and decided without.
_SLOW_S = 5.0
# After a trigger the next look is at most this soon after the last one.
_SOONEST_S = 0.2
_HOLDING_S, _AWAKE_S, _WARM_S, _ASLEEP_S = 0.5, 1.0, 3.0, 5.0
# Cooler than this below the set point, and with less load, it may sleep long.
_COOL_C, _IDLE_LOAD = 15.0, 0.05


class Monitor:
    """One for the daemon."""

    def __init__(
        self,
        root: Path,
        state_folder: Path,
        governor: Governor,
        events: EventLog,
        take: Callable[[Limits], None],
        busy_s: Callable[[], float],
        recorder: Recorder | None = None,
        tell: Callable[[Fact], None] = lambda _fact: None,
    ) -> None:
        """`take` is told the limits whenever they change, and `tell` what each look has read.

        `busy_s`: the seconds in which inferences ran so far, of at most one for each second that passes.
        """
        self._root = root
        self._state_folder = state_folder
        self._governor = governor
        self._events = events
        self._take = take
        self._busy_s = busy_s
        self._tracing = Tracing(recorder, events) if recorder else None
        self._tell_fact = tell
        self._reader: Reader[Sensors | Readings] = Reader()
        self._state = State()
        self._limits = Limits()
        self.levels: dict[str, Level] = {}
        """Of each resource."""
        self.distrusted: dict[str, str] = {}
        """The sensors that are not believed, and why."""
        self._fired: set[str] = set()
        self._woken = asyncio.Event()
        self._looked_at = clock.monotonic()
        self._was_busy_s = 0.0
        self._unanswered = False
        self._known: set[str] = set()
        self._log = log.get("pressure")

    @property
    def level(self) -> Level:
        """What callers are told."""
        return self._limits.level

    async def run(self, environment: Mapping[str, str] = os.environ) -> None:
        """Watches until it is cancelled."""
        triggers = Triggers(self._on_trigger)
        try:
            sensors = await self._discover()
            for trigger in stall.wanted(self._root, sensors.groups, environment):
                triggers.arm(trigger)
            self._tell_found(sensors, triggers)
            while True:
                wait_s = await self._look(sensors, poll_stalls=not {MEMORY + ".some", CPU + ".some"} <= triggers.armed)
                await self._rest(wait_s)
        finally:
            triggers.close()
            self._reader.close()
            if self._tracing:
                self._tracing.close()

    def govern(self, governor: Governor) -> None:
        """Other settings or ladders hold from the next look on, which is now."""
        self._governor = governor
        self._woken.set()

    async def _discover(self) -> Sensors:
        while True:
            try:
                found = await self._reader.read(lambda: Sensors(self._root, self._state_folder), _SLOW_S)
            except TimeoutError:
                self._tell_unanswered()
                continue
            assert isinstance(found, Sensors)  # noqa: S101 - narrows the type
            return found

    async def _look(self, sensors: Sensors, *, poll_stalls: bool) -> float:
        """Reads, decides, tells; how long it may rest now."""
        now = clock.monotonic()
        self._woken.clear()
        fired, self._fired = tuple(sorted(self._fired)), set()
        busy_s = self._busy_s()
        passed_s = now - self._looked_at
        load = min(max((busy_s - self._was_busy_s) / passed_s, 0.0), 1.0) if passed_s > 0 else 0.0
        self._looked_at, self._was_busy_s = now, busy_s
        try:
            readings = await self._reader.read(lambda: sensors.read(load, fired, stalls=poll_stalls), _SLOW_S)
        except TimeoutError:
            self._tell_unanswered()
            readings = Readings(load=load, fired=fired)
        else:
            self._unanswered = False
        assert isinstance(readings, Readings)  # noqa: S101 - narrows the type
        self._tell_new(sensors)
        before, governor = self._state, self._governor
        self._state, decision = governor.decide(before, readings, now)
        for fact in telling.facts(readings, decision.distrusted):
            self._tell_fact(fact)
        self._tell(decision, readings)
        if decision.limits != self._limits:
            self._limits = decision.limits
            self._take(decision.limits)
        if self._tracing:
            await self._tracing.record(governor, before, now, readings, decision)
        return interval_s(decision, governor.closest_c(self._state, readings), load)

    async def _rest(self, wait_s: float) -> None:
        """Until the time is over or a trigger fires, the latter not all too soon."""
        try:
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(self._looked_at + _SOONEST_S - clock.monotonic(), 0.0))

    def _on_trigger(self, name: str) -> None:
        self._fired.add(name)
        if name.partition(".")[0] not in (CPU, IO) or not self._is_known(name):
            self._woken.set()

    def _is_known(self, name: str) -> bool:
        """Background work is already paused for it: the next look is soon enough."""
        return self.levels.get(name.partition(".")[0], Level.NOMINAL) is not Level.NOMINAL

    def _tell_found(self, sensors: Sensors, triggers: Triggers) -> None:
        steering = [probe.name for probe in sensors.probes if probe.steers]
        text = f"{len(sensors.probes)} sensors found; acting on {', '.join(steering) or 'no temperature'}"
        self._log.info(
            text,
            triggers=", ".join(sorted(triggers.armed)) or "none",
            not_armed="; ".join(f"{name}: {why}" for name, why in triggers.failed.items()) or "none",
        )
        self._known = {probe.name for probe in sensors.probes}
        for probe in sensors.probes:
            self._log.debug("sensor", name=probe.name, unit=probe.unit, source=probe.source)

    def _tell_new(self, sensors: Sensors) -> None:
        """Of what was found later; that one has vanished is the governor's to say."""
        for probe in sensors.probes:
            if probe.name not in self._known:
                self._known.add(probe.name)
                self._log.info("a sensor has come", name=probe.name, unit=probe.unit, source=probe.source)

    def _tell_unanswered(self) -> None:
        if not self._unanswered:
            self._unanswered = True
            text = f"the sensors have not answered for {_SLOW_S:g} s: one of their drivers hangs"
            self._events.record(Severity.ERROR, "sensors_hang", "pressure", text)

    def _tell(self, decision: Decision, readings: Readings) -> None:
        for resource, level in decision.levels.items():
            before = self.levels.get(resource, Level.NOMINAL)
            if level is not before:
                self._events.record(
                    Severity.WARNING if severity(level) > severity(before) else Severity.INFO,
                    "pressure_level",
                    resource,
                    f"{resource} pressure is {level}, was {before}: {_why(decision.causes, resource)}",
                    level=level,
                    was=before,
                    load=f"{readings.load or 0:.2f}",
                    duty=f"{decision.limits.duty:.2f}",
                    inputs=_inputs(resource, readings),
                )
        self.levels = decision.levels
        for name, doubt in decision.distrusted.items():
            if self.distrusted.get(name) != doubt:
                self._events.record(Severity.WARNING, "sensor_distrusted", name, f"{name}: {doubt}")
        for name in self.distrusted.keys() - decision.distrusted.keys():
            self._events.record(Severity.INFO, "sensor_trusted", name, f"{name} is in order again")
        self.distrusted = decision.distrusted


def interval_s(decision: Decision, closest_c: float | None, load: float) -> float:
    """How long until the next look. `closest_c`: how far the warmest sensor is below its set point. Pure."""
    if decision.levels.get(THERMAL, Level.NOMINAL) is not Level.NOMINAL:
        return _HOLDING_S
    if any(level is not Level.NOMINAL for level in decision.levels.values()):
        return _AWAKE_S
    if closest_c is not None and load > _IDLE_LOAD:
        return _AWAKE_S
    return _WARM_S if closest_c is not None and closest_c < _COOL_C else _ASLEEP_S


def _why(causes: tuple[Cause, ...], resource: str) -> str:
    texts = [cause.text for cause in causes if cause.resource == resource]
    return "; ".join(texts) or "it has been better for the dwell time"


def _inputs(resource: str, readings: Readings) -> str:
    """What the decision rests on, in short."""
    if resource == THERMAL:
        shown = [f"{each.name} {each.celsius} °C" for each in readings.temperatures]
        return ", ".join([*shown, *readings.throttled])
    if resource == MEMORY and readings.memory:
        return f"available {readings.memory.available_bytes} bytes, fired {', '.join(readings.fired) or 'nothing'}"
    return ", ".join(readings.fired) or str(getattr(readings, resource, ""))
