"""Looks at the sensors when it is worth it, lets the governor decide, and tells what may be taken.

It sleeps as long as the device is idle, the longer the cooler it is, looks each second when it is at work or something
is pressed, and twice a second while heat is held back. A look wakes the loop twice: to begin, and with what was read.
The kernel's stall triggers wake it at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from edged import clock, log
from edged.events import EventLog, Severity
from edged.facts import Fact
from edged.pressure import sensors_memory, stall, telling
from edged.pressure.governor import CPU, IO, MEMORY, THERMAL, Cause, Decision, Governor, State, senseless
from edged.pressure.levels import severity
from edged.pressure.reader import Reader
from edged.pressure.readings import Readings
from edged.pressure.resources import Resources
from edged.pressure.sensors import Sensors
from edged.pressure.stall import Kind, Triggers
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
        # The first for everything, the second for what needs no driver, the last for what needs no disk either.
        self._readers: list[Reader[Readings]] = [Reader(), Reader(), Reader()]
        self._sensors: Sensors | None = None
        self._resources: Resources | None = None
        self._state = State()
        self._limits = Limits()
        self.levels: dict[str, Level] = {}
        """Of each resource."""
        self._distrusted: dict[str, str] = {}
        self._senseless: dict[str, str] = {}
        self._fired: set[str] = set()
        self._woken = asyncio.Event()
        self._looked_at = clock.monotonic()
        self._was_busy_s = 0.0
        self._unanswered = False
        self._known: set[str] | None = None
        self._failed: set[str] = set()
        self._log = log.get("pressure")

    @property
    def level(self) -> Level:
        """What callers are told."""
        return self._limits.level

    @property
    def doubts(self) -> Mapping[str, str]:
        """The sensors that make no sense, and why; none while a driver hangs, which has all of them seem gone."""
        return {} if self._unanswered else self._senseless

    async def run(self, environment: Mapping[str, str] = os.environ) -> None:
        """Watches until it is cancelled."""
        triggers = Triggers(self._on_trigger)
        try:
            for trigger in stall.wanted(self._root, sensors_memory.groups(self._root), environment):
                triggers.arm(trigger)
            while True:
                try:
                    wait_s = await self._look(triggers)
                except Exception as error:  # noqa: BLE001 - else the limits of the last look held for ever
                    why = f"{type(error).__name__}: {error}"
                    self._tell_failed("pressure", f"a look at the sensors failed: {why}; the limits stay as they are")
                    wait_s = _AWAKE_S
                await self._rest(wait_s)
        finally:
            triggers.close()
            for reader in self._readers:
                reader.close()
            if self._tracing:
                self._tracing.close()

    def govern(self, governor: Governor) -> None:
        """Other settings or ladders hold from the next look on, which is now."""
        self._governor = governor
        self._woken.set()

    async def _look(self, triggers: Triggers) -> float:
        """Reads, decides, tells; how long it may rest now."""
        now = clock.monotonic()
        self._woken.clear()
        busy_s = self._busy_s()
        passed_s = now - self._looked_at
        load = min(max((busy_s - self._was_busy_s) / passed_s, 0.0), 1.0) if passed_s > 0 else 0.0
        self._looked_at, self._was_busy_s = now, busy_s
        found = await self._read(tuple(triggers.silent))
        fired, self._fired = tuple(sorted(self._fired)), set()
        readings = msgspec.structs.replace(found, load=load, fired=fired)
        self._tell_found(triggers)
        before, governor = self._state, self._governor
        self._state, decision = governor.decide(before, readings, now)
        self._senseless = senseless(self._state, readings)
        for fact in telling.facts(readings, decision.distrusted):
            self._tell_fact(fact)
        self._tell(decision, readings)
        if decision.limits != self._limits:
            self._take(decision.limits)
            self._limits = decision.limits
        if self._tracing:
            await self._tracing.record(governor, before, now, readings, decision)
        return interval_s(decision, governor.closest_c(self._state, readings), load)

    async def _read(self, stalls: Collection[Kind]) -> Readings:
        """Everything, or what can be read while a driver hangs, or the disk."""
        every, no_driver, no_disk = self._readers
        try:
            found = await every.read(lambda: self._read_all(stalls), _SLOW_S)
        except TimeoutError:
            self._tell_unanswered()
        else:
            self._unanswered = False
            return found
        if self._resources is None:
            self._resources = Resources(self._root, self._state_folder)
        resources = self._resources
        try:
            return await no_driver.read(lambda: resources.read(stalls), _SLOW_S)
        except TimeoutError:
            return await no_disk.read(lambda: resources.read_no_disk(stalls), _SLOW_S)

    def _read_all(self, stalls: Collection[Kind]) -> Readings:
        if self._sensors is None:
            self._sensors = Sensors(self._root, self._state_folder)
        return self._sensors.read(stalls)

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

    def _tell_found(self, triggers: Triggers) -> None:
        """Of all that was found first, and of each that came later; that one has vanished is the governor's to say."""
        if self._sensors is None:  # looking for them has not ended
            return
        for source, why in list(self._sensors.faults.items()):
            self._tell_failed(source, f"{source} cannot be read: {why}; it is decided without")
        probes = self._sensors.probes
        if self._known is None:
            self._known = {probe.name for probe in probes}
            steering = [probe.name for probe in probes if probe.steers]
            text = f"{len(probes)} sensors found; acting on {', '.join(steering) or 'no temperature'}"
            self._log.info(
                text,
                triggers=", ".join(sorted(triggers.armed)) or "none",
                not_armed="; ".join(f"{name}: {why}" for name, why in triggers.failed.items()) or "none",
            )
            for probe in probes:
                self._log.debug("sensor", name=probe.name, unit=probe.unit, source=probe.source)
        for probe in probes:
            if probe.name not in self._known:
                self._known.add(probe.name)
                self._log.info("a sensor has come", name=probe.name, unit=probe.unit, source=probe.source)

    def _tell_failed(self, what: str, text: str) -> None:
        """Once: a defect of edged, or of a driver in a way that nobody thought of."""
        if what not in self._failed:
            self._failed.add(what)
            self._events.record(Severity.ERROR, "sensor_failed", what, text)

    def _tell_unanswered(self) -> None:
        if not self._unanswered:
            self._unanswered = True
            text = f"the sensors have not answered for {_SLOW_S:g} s: a driver hangs, or the state folder's disk"
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
            if self._distrusted.get(name) != doubt:
                self._events.record(Severity.WARNING, "sensor_distrusted", name, f"{name}: {doubt}")
        for name in self._distrusted.keys() - decision.distrusted.keys():
            self._events.record(Severity.INFO, "sensor_trusted", name, f"{name} is in order again")
        self._distrusted = decision.distrusted


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
