"""The governor: readings and what it remembers in; a level per resource, and what may be taken, out. Pure.

It gives up the least important first, and early: it acts on the temperature it will have in `horizon_s`. Between the
steps of the levels it sets the largest duty that holds the temperature below the set point.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import msgspec

from edged.pressure import heat, ladder, levels, storage, trust
from edged.pressure.ladder import Ladders
from edged.pressure.levels import NEVER, Held, hardest
from edged.pressure.policy import Policy, doubts, thresholds
from edged.pressure.readings import Readings
from edged.types import Level, Limits

THERMAL, MEMORY, POWER, STORAGE, CPU, IO = "thermal", "memory", "power", "storage", "cpu", "io"
RESOURCES = (THERMAL, MEMORY, POWER, STORAGE, CPU, IO)

TRIP_POINTS = " trip points"
"""Follows the name of a sensor of which these, and not its temperature, are not believed."""

_VANISHED = "it has vanished, or cannot be read any more"

# What callers of models feel. The others pause background work only, the storage only what fills it.
_FELT = (THERMAL, MEMORY, POWER)
# Smaller changes of the duty are not worth telling anybody.
_DUTY_STEP = 0.02
# While the kernel throttles all the same, the duty falls with this time constant.
_BACK_OFF_S = 5.0


class Cause(msgspec.Struct, frozen=True):
    """Why a resource is wanted at a level: the inputs, in words."""

    resource: str
    level: Level
    text: str


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is remembered from one decision to the next."""

    sensors: dict[str, heat.Sensor] = {}
    held: dict[str, Held] = {}
    at: float = NEVER
    duty: float = 1.0
    oom_kills: int | None = None
    writes: storage.Writes | None = None


class Decision(msgspec.Struct, frozen=True):
    """What holds from now on."""

    levels: dict[str, Level]
    limits: Limits
    causes: tuple[Cause, ...]
    """Of everything wanted above nominal now; a level that only waits for its dwell time has none."""
    distrusted: dict[str, str]
    """By sensor, why it is not believed, or that it vanished."""


class Governor(msgspec.Struct, frozen=True):
    """What does not change from one decision to the next."""

    policy: Policy
    ladders: Ladders = {}

    def decide(self, state: State, readings: Readings, now: float) -> tuple[State, Decision]:
        """Takes one set of readings at `now`, monotonic seconds."""
        sensors, distrusted = _follow(state, readings, now)
        causes: list[Cause] = []
        duty = self._heat(state, sensors, readings, now, causes, distrusted)
        self._memory(state, readings, causes)
        self._power(readings, causes)
        writes = self._storage(state, readings, now, causes)
        self._stalls(readings, causes)
        held = {
            resource: levels.follow(
                state.held.get(resource, Held()),
                hardest(*(cause.level for cause in causes if cause.resource == resource)),
                now,
                self.policy.dwell_s,
            )
            for resource in RESOURCES
        }
        found = {resource: each.level for resource, each in held.items()}
        duty = round(duty, 2)
        if abs(duty - state.duty) < _DUTY_STEP and duty < 1:
            duty = state.duty
        oom_kills = readings.memory.oom_kills if readings.memory else state.oom_kills
        limits = ladder.limits(
            hardest(*(found[resource] for resource in _FELT)),
            duty,
            self.ladders,
            background_paused=any(
                found[resource] is not Level.NOMINAL for resource in RESOURCES if resource != STORAGE
            ),
            storage=found[STORAGE],
        )
        true_causes = tuple(cause for cause in causes if cause.level is not Level.NOMINAL)
        return State(sensors, held, now, duty, oom_kills, writes), Decision(found, limits, true_causes, distrusted)

    def closest_c(self, state: State, readings: Readings) -> float | None:
        """How far the warmest believed temperature is below its set point; None where there is none."""
        gaps = [
            thresholds(reading.trips, self.policy).set_c - sensor.smooth_c
            for reading in readings.temperatures
            if (sensor := state.sensors.get(reading.name)) and not sensor.past.doubt
        ]
        return min(gaps, default=None)

    def _heat(
        self,
        state: State,
        sensors: dict[str, heat.Sensor],
        readings: Readings,
        now: float,
        causes: list[Cause],
        distrusted: dict[str, str],
    ) -> float:
        """Adds the causes that are hot, remembers what each sensor wants, and gives the duty."""
        duty, sighted = 1.0, False
        for reading in readings.temperatures:
            sensor = sensors.get(reading.name)
            if sensor is None or reading.celsius is None or sensor.past.doubt:
                continue
            sighted = True
            judged = heat.judge(sensor, reading, self.policy)
            sensors[reading.name] = msgspec.structs.replace(sensor, wanted=judged.wanted)
            causes.append(Cause(THERMAL, judged.wanted, judged.text))
            duty = min(duty, judged.duty)
            for doubt in doubts(reading.trips):
                distrusted.setdefault(reading.name + TRIP_POINTS, doubt)
        if not sighted and any(sensor.past.believed for sensor in sensors.values()):
            duty = min(state.duty, heat.BLIND_DUTY)  # no level: it may stay blind, and must still be updated
        if readings.throttled:
            texts = (f"{who} is being throttled" for who in readings.throttled)
            causes.extend(Cause(THERMAL, Level.CRITICAL, text) for text in texts)
            passed_s = min(now - state.at, _BACK_OFF_S)
            duty = max(min(duty, state.duty * math.exp(-passed_s / _BACK_OFF_S)), heat.LEAST_DUTY)
        return duty

    def _memory(self, state: State, readings: Readings, causes: list[Cause]) -> None:
        memory = readings.memory
        if memory:
            reserve = min(self.policy.memory_reserve_bytes, memory.limit_bytes // 4)
            left = memory.available_bytes
            wanted = levels.ORDER[(left < reserve) + (left < reserve / 2) + (left < reserve / 4)]
            text = f"{left >> 20} MiB of {memory.limit_bytes >> 20} MiB are left, the reserve is {reserve >> 20} MiB"
            causes.append(Cause(MEMORY, wanted, text))
            if state.oom_kills is not None and memory.oom_kills > state.oom_kills:
                causes.append(Cause(MEMORY, Level.CRITICAL, "the kernel has ended a process for want of memory"))

    def _storage(self, state: State, readings: Readings, now: float, causes: list[Cause]) -> storage.Writes | None:
        if readings.storage is None:
            return state.writes
        pressed = storage.level(readings.storage, self.policy.storage_reserve_bytes)
        causes.append(Cause(STORAGE, pressed.level, pressed.text))
        if readings.storage.written_bytes is None:
            return state.writes
        budget = self.policy.write_budget_bytes
        writes = storage.follow(state.writes, readings.storage.written_bytes, now, budget)
        worn = storage.worn(writes, budget)
        causes.append(Cause(STORAGE, worn.level, worn.text))
        return writes

    def _power(self, readings: Readings, causes: list[Cause]) -> None:
        power = readings.power
        if power is None:
            return
        if power.undervoltage:
            causes.append(Cause(POWER, Level.ELEVATED, "the supply's voltage is too low"))
        if power.mains is not True and power.charge_percent is not None:
            low, left = self.policy.battery_low_percent, power.charge_percent
            wanted = levels.ORDER[(left < low) + (left < low / 2) + (left < low / 4)]
            causes.append(Cause(POWER, wanted, f"the battery holds {left:g} %, without mains"))

    def _stalls(self, readings: Readings, causes: list[Cause]) -> None:
        for name in readings.fired:
            wanted = Level.CRITICAL if name == "memory.full" else Level.ELEVATED
            causes.append(Cause(name.partition(".")[0], wanted, f"the kernel reports stalls: {name}"))
        for resource, stall in readings.stalls.items():
            most = stall.full_percent if resource == MEMORY else max(stall.some_percent, stall.full_percent)
            if resource in (CPU, IO, MEMORY) and most >= self.policy.stall_percent:
                causes.append(Cause(resource, Level.ELEVATED, f"tasks waited for {resource} {most:g} % of 10 s"))


def _follow(state: State, readings: Readings, now: float) -> tuple[dict[str, heat.Sensor], dict[str, str]]:
    """Every sensor that was seen stays known, so that one that vanishes is told."""
    sensors = dict(state.sensors)
    distrusted: dict[str, str] = {}
    load = readings.load or 0.0
    for reading in readings.temperatures:
        if reading.celsius is not None:
            sensors[reading.name] = sensor = heat.follow(
                sensors.get(reading.name), reading.celsius, load, now, throttled=bool(readings.throttled)
            )
            if sensor.past.doubt:
                distrusted[reading.name] = sensor.past.doubt
    distrusted |= dict.fromkeys(_vanished(sensors, readings), _VANISHED)
    return sensors, distrusted


def _vanished(sensors: Collection[str], readings: Readings) -> set[str]:
    return set(sensors) - {reading.name for reading in readings.temperatures if reading.celsius is not None}


def senseless(state: State, readings: Readings) -> dict[str, str]:
    """By sensor, that it says what cannot be, or has vanished, which speaks against the device that it belongs to.

    Another doubt does not: a GPU that idles stays at the same whole degree while models elsewhere have their work.
    """
    said = {each.name: trust.impossible(each.celsius) for each in readings.temperatures if each.celsius is not None}
    found = {name: why for name, why in said.items() if why}
    return found | dict.fromkeys(_vanished(state.sensors, readings), _VANISHED)
