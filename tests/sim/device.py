"""A device that heats as it computes, and a kernel that throttles it.

Two thermal masses, die and case, each first order: C·dT/dt = power in - power out. The kernel's side is that of the
`step_wise` governor with hysteresis (Documentation/driver-api/thermal/): each polling interval, one step slower while
the trip is reached, one step faster when the temperature has fallen by the hysteresis below it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """How fast, and at what power, a throttled processor runs, as shares of its best."""

    speed: float
    power: float


@dataclass(frozen=True)
class Profile:
    """A kind of device. Power in W, resistances in K/W, time constants in s."""

    name: str
    idle_w: float
    full_w: float
    """Over idle, at full speed and full load."""
    die_k_w: float
    """From die to case."""
    die_tau_s: float
    case_k_w: float
    """From case to ambient."""
    case_tau_s: float
    trip_c: float
    critical_c: float
    steps: tuple[Step, ...]
    hysteresis_k: float
    poll_s: float
    resolution_c: float
    leak_per_k: float = 0.006
    """How much more power per kelvin of the die above 50 °C, of all of it."""
    fan_share: float = 1.0
    """How much of the cooling is the fan's doing: without it `case_k_w` is divided by 1 - share."""


GATEWAY = Profile(
    # Clock modulation (Intel SDM 3, 16.8.3) holds the clock back and not the voltage: power falls as speed does.
    name="fanless gateway",
    idle_w=3.0,
    full_w=9.0,
    die_k_w=1.4,
    die_tau_s=3.0,
    case_k_w=3.6,
    case_tau_s=420.0,
    trip_c=85.0,
    critical_c=105.0,
    steps=(Step(0.75, 0.77), Step(0.5, 0.55), Step(0.25, 0.33)),
    hysteresis_k=5.0,
    poll_s=1.0,
    resolution_c=1.0,
    fan_share=0.0,
)
JETSON = Profile(
    # Pulse skipping in hardware: 85 of 100 clocks are left out, as the device tree binding of its soctherm has it
    # (nvidia,cpu-throt-percent), and none of the voltage.
    name="Jetson-like module",
    idle_w=4.0,
    full_w=16.0,
    die_k_w=0.9,
    die_tau_s=2.0,
    case_k_w=2.1,
    case_tau_s=150.0,
    trip_c=88.0,
    critical_c=104.5,
    steps=(Step(0.15, 0.25),),
    hysteresis_k=8.0,
    poll_s=0.25,
    resolution_c=0.5,
    fan_share=0.45,
)
CART = Profile(
    # Frequency and voltage both fall, over several steps: throttling is gentler here than anywhere.
    name="cart computer",
    idle_w=6.0,
    full_w=28.0,
    die_k_w=0.55,
    die_tau_s=2.0,
    case_k_w=1.15,
    case_tau_s=240.0,
    trip_c=90.0,
    critical_c=100.0,
    steps=(Step(0.85, 0.78), Step(0.7, 0.58), Step(0.5, 0.37), Step(0.3, 0.2)),
    hysteresis_k=2.0,
    poll_s=1.0,
    resolution_c=1.0,
    fan_share=0.5,
)
PROFILES = {"gateway": GATEWAY, "jetson": JETSON, "cart": CART}


@dataclass
class Device:
    """One device, from cold. Time passes by `advance` alone."""

    profile: Profile
    ambient_c: float
    random: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 0.0
    throttled_s: float = 0.0
    throttle_steps: int = 0
    neighbour_w: float = 0.0
    fan_works: bool = True

    def __post_init__(self) -> None:
        idle_w = self.profile.idle_w
        self.case_c = self.ambient_c + idle_w * self._case_k_w
        self.die_c = self.case_c + idle_w * self.profile.die_k_w
        self._polled_at = 0.0
        self._polled_c = self.die_c

    @property
    def _case_k_w(self) -> float:
        profile = self.profile
        return profile.case_k_w / (1 if self.fan_works else 1 - profile.fan_share)

    @property
    def speed(self) -> float:
        """Of its best."""
        return self.profile.steps[self.throttle_steps - 1].speed if self.throttle_steps else 1.0

    @property
    def temperature_c(self) -> float:
        """What the sensor says, in its own steps and with its noise."""
        resolution_c = self.profile.resolution_c
        noisy = self.die_c + self.random.gauss(0, resolution_c / 3)
        return round(noisy / resolution_c) * resolution_c

    def set_ambient(self, celsius: float) -> None:
        """The room, the sun, the cabinet's door."""
        self.ambient_c = celsius

    def fail_fan(self) -> None:
        """It stands still from now on."""
        self.fan_works = False

    def heat_beside(self, watts: float) -> None:
        """A neighbour on the same die begins to take so much, or ends with 0."""
        self.neighbour_w = watts

    def busy_to_reach(self, celsius: float, step_s: float) -> float:
        """The share of the next step that must be spent computing at full clock for the die to end it at `celsius`,
        within 0 and 1."""
        profile = self.profile
        die_out_w = (self.die_c - self.case_c) / profile.die_k_w
        wanted_w = (celsius - self.die_c) * profile.die_tau_s / (profile.die_k_w * step_s) + die_out_w
        computing_w = wanted_w / self._leak - profile.idle_w - self.neighbour_w
        return min(max(computing_w / profile.full_w, 0.0), 1.0)

    @property
    def _leak(self) -> float:
        return max(1 + self.profile.leak_per_k * (self.die_c - 50), 0.5)

    def advance(self, seconds: float, busy: float) -> None:
        """Lets time pass with this share of it spent computing."""
        profile = self.profile
        while seconds > 1e-9:
            step_s = min(seconds, 0.25)
            power = profile.steps[self.throttle_steps - 1].power if self.throttle_steps else 1.0
            watts = profile.idle_w + self.neighbour_w + busy * power * profile.full_w
            watts *= self._leak
            die_out_w = (self.die_c - self.case_c) / profile.die_k_w
            case_out_w = (self.case_c - self.ambient_c) / self._case_k_w
            self.die_c += step_s * (watts - die_out_w) * profile.die_k_w / profile.die_tau_s
            self.case_c += step_s * (die_out_w - case_out_w) * profile.case_k_w / profile.case_tau_s
            self.now += step_s
            seconds -= step_s
            if self.throttle_steps:
                self.throttled_s += step_s
            if self.now - self._polled_at >= profile.poll_s:
                self._poll()

    def _poll(self) -> None:
        profile = self.profile
        if self.die_c >= profile.trip_c and self.die_c >= self._polled_c:
            self.throttle_steps = min(self.throttle_steps + 1, len(profile.steps))
        elif self.die_c < profile.trip_c - profile.hysteresis_k and self.throttle_steps:
            self.throttle_steps -= 1
        self._polled_at, self._polled_c = self.now, self.die_c

    def write(self, root: Path) -> None:
        """Its thermal zone and cooling device, as sysfs shows them."""
        zone = root / "sys/class/thermal/thermal_zone0"
        zone.mkdir(parents=True, exist_ok=True)
        profile = self.profile
        files = {
            "type": "cpu-thermal",
            "temp": f"{round(self.temperature_c * 1000)}",
            "trip_point_0_type": "passive",
            "trip_point_0_temp": f"{round(profile.trip_c * 1000)}",
            "trip_point_1_type": "critical",
            "trip_point_1_temp": f"{round(profile.critical_c * 1000)}",
        }
        for name, text in files.items():
            (zone / name).write_text(text + "\n")
        cooling = root / "sys/class/thermal/cooling_device0"
        cooling.mkdir(exist_ok=True)
        states = {"type": "cpufreq-cpu0", "cur_state": self.throttle_steps, "max_state": len(profile.steps)}
        for name, state in states.items():
            (cooling / name).write_text(f"{state}\n")
