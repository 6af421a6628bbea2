"""Work on a simulated device: requests of two models with opposite priorities, served one after the other.

It stands in for the scheduler with what matters here: the higher priority first, bounded queues, deadlines, work past
its deadline never begun, and the limits as edged/types.py means them. Who has to rest is said by edged's own code.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

from edged.pressure.governor import Decision, Governor, State
from edged.pressure.readings import Readings, Temperature, Trip
from edged.serving.duty import Duty
from edged.types import Level, Limits
from tests.sim.device import Device

SAMPLE_S = 1.0


@dataclass(frozen=True)
class Model:
    """One model and those who ask it."""

    name: str
    priority: int
    work_s: float
    """What one inference takes at full speed."""
    share: float
    """Of the device's whole time, what is asked for."""
    deadline_s: float
    queue: int
    light: float = 1.0
    """The work of its lighter variant, as a share."""


MODELS = (
    Model("alarm", priority=1, work_s=0.012, share=0.2, deadline_s=0.15, queue=64),
    # So much that a variant of half the work leaves nothing idle either.
    Model("quality", priority=5, work_s=0.020, share=2.0, deadline_s=1.0, queue=16),
)


@dataclass
class Request:
    """One request, its times in seconds."""

    model: Model
    came: float
    answered: float | None = None
    refused: bool = False
    worked_s: float = 0.0
    """What it took at full speed, by the variant that answered."""

    @property
    def met(self) -> bool:
        """It was answered within its deadline."""
        return self.answered is not None and self.answered - self.came <= self.model.deadline_s


@dataclass
class Sample:
    """What one second showed."""

    at: float
    temperature_c: float
    duty: float
    level: Level
    answered: int
    throttled: bool


@dataclass
class Run:
    """A device at work, with a governor or without."""

    device: Device
    governor: Governor | None
    models: tuple[Model, ...] = MODELS
    seed: int = 1
    requests: list[Request] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    decisions: list[tuple[float, Readings, Decision]] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    level: Level = Level.NOMINAL

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._state = State()
        self._waiting: dict[str, deque[Request]] = {model.name: deque() for model in self.models}
        self._arrivals: list[tuple[float, int]] = []
        for number in range(len(self.models)):
            self._next_arrival(number, 0.0)
        self._duty = Duty()
        self._busy_s = 0.0
        self._answered = 0
        self._sampled_at = 0.0

    def advance(self, until: float) -> None:
        """Serves until then."""
        while self.device.now < until:
            self._arrive()
            request = self._take()
            if request is None:
                step_s = min(self._arrivals[0][0] - self.device.now, self._wait_s(), until - self.device.now)
                self._pass(max(step_s, 1e-4), busy=False)
            else:
                self._serve(request)

    def _next_arrival(self, number: int, now: float) -> None:
        model = self.models[number]
        heapq.heappush(self._arrivals, (now + self._random.expovariate(model.share / model.work_s), number))

    def _arrive(self) -> None:
        while self._arrivals[0][0] <= self.device.now:
            came, number = heapq.heappop(self._arrivals)
            model = self.models[number]
            request = Request(model, came)
            self.requests.append(request)
            lowest = self.limits.of(model.name).min_priority
            waiting = self._waiting[model.name]
            if len(waiting) >= model.queue or (lowest and model.priority > lowest):
                request.refused = True
            else:
                waiting.append(request)
            self._next_arrival(number, came)

    def _take(self) -> Request | None:
        for model in sorted(self.models, key=lambda each: each.priority):
            waiting = self._waiting[model.name]
            while waiting and self.device.now - waiting[0].came > model.deadline_s:
                waiting.popleft()
            if waiting and not self._rest_s(model):
                return waiting.popleft()
        return None

    def _wait_s(self) -> float:
        """How long until there is something to do besides arrivals: somebody has rested enough."""
        return min((self._rest_s(model) for model in self.models if self._waiting[model.name]), default=1.0)

    def _rest_s(self, model: Model) -> float:
        return self._duty.rest_s(self.device.now, ahead=model.priority == 1)

    def _serve(self, request: Request) -> None:
        light = request.model.light if self.limits.of(request.model.name).variant else 1.0
        work_s = request.worked_s = request.model.work_s * light
        began = self.device.now
        while work_s > 1e-9:
            step_s = min(work_s / self.device.speed, 0.05)
            work_s -= step_s * self.device.speed
            self._pass(step_s, busy=True)
        request.answered = self.device.now
        self._duty.spent(self.device.now - began, self.device.now, ahead=request.model.priority == 1)
        self._answered += 1

    def _pass(self, seconds: float, *, busy: bool) -> None:
        self.device.advance(seconds, 1.0 if busy else 0.0)
        if busy:
            self._busy_s += seconds
        if self.device.now - self._sampled_at >= SAMPLE_S:
            self._sample()

    def _sample(self) -> None:
        device = self.device
        trips = (Trip("passive", device.profile.trip_c), Trip("critical", device.profile.critical_c))
        celsius = device.temperature_c
        readings = Readings(
            load=min(self._busy_s / (device.now - self._sampled_at), 1.0),
            temperatures=(Temperature("soc", celsius, trips),),
            throttled=("cpufreq-cpu0",) if device.throttle_steps else (),
        )
        if self.governor:
            self._state, decision = self.governor.decide(self._state, readings, device.now)
            self.limits, self.level = decision.limits, decision.limits.level
            self._duty.share = decision.limits.duty
            self.decisions.append((device.now, readings, decision))
        sample = Sample(device.now, celsius, self.limits.duty, self.level, self._answered, device.throttle_steps > 0)
        self.samples.append(sample)
        self._sampled_at, self._busy_s, self._answered = device.now, 0.0, 0
