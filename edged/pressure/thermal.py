"""A first-order model of how load heats a device, fitted while it runs. Pure.

    temperature = offset + gain · x,   dx/dt = (load - x) / tau

For each of some time constants the load is filtered to x, and the temperature is regressed on it (least squares
with forgetting); the time constant that explains most is taken. Regressing on the filtered load, and not the
slope on the temperature, keeps the coarse steps of real sensors out of the fit (output-error identification; Ljung,
System Identification, 4.2). Both sides are high-passed first, twice, which leaves nothing of a steady drift: a governor
that computes less while the case and the room slowly warm would otherwise teach the fit that computing cools. What is
slow, and what the load does not explain (the room, a fan that fails, a neighbour), is followed by the offset within
seconds.
"""

from __future__ import annotations

import math

import msgspec

TAUS_S = (4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
# What was learned is forgotten as there is something newer to learn, never by time alone: a load that is held steady
# teaches nothing. So much evidence is kept at most.
_ENOUGH_S = 30.0
# What is slower than this is left to the offset.
_SLOW_S = 60.0
# How fast the offset follows what the load does not explain.
_OFFSET_S = 10.0
# More heat than the noise of sensors explains is believed sooner: something else has begun to heat.
_SURPRISE_C, _SURPRISE_S = 2.0, 2.0
# How fast it is learned where the offset itself is going; that is the slope on which the governor acts.
_DRIFT_S = 30.0
# The gain is drawn to this, with the weight of so much variance of the load times seconds.
_PRIOR_GAIN_C, _PRIOR_WEIGHT_S = 20.0, 1.0
# Below it, one does not heat this device by computing.
_LEAST_GAIN_C = 4.0
# A time constant that explains more must explain so much more, or the choice would wander.
_BETTER = 1.01


class Passed(msgspec.Struct, frozen=True, array_like=True):
    """A high-pass of the second order: what it holds back, and what it lets through."""

    slow: float
    slower: float = 0.0
    quick: float = 0.0

    def take(self, value: float, step_s: float) -> Passed:
        """Lets `value` in."""
        slow = self.slow + (value - self.slow) * _share(step_s, _SLOW_S)
        rest = value - slow
        slower = self.slower + (rest - self.slower) * _share(step_s, _SLOW_S)
        return Passed(slow, slower, rest - slower)


class Sums(msgspec.Struct, frozen=True, array_like=True):
    """Of one time constant: the filtered load, and, of its quick part, sums over seconds."""

    x: float
    passed: Passed
    variance: float = 0.0
    covariance: float = 0.0
    heat: float = 0.0
    """The variance of the temperature, forgotten as the load's is."""

    @property
    def gain_c(self) -> float:
        """How much hotter full load makes it."""
        gain_c = (self.covariance + _PRIOR_GAIN_C * _PRIOR_WEIGHT_S) / (self.variance + _PRIOR_WEIGHT_S)
        return max(gain_c, _LEAST_GAIN_C)

    @property
    def explained(self) -> float:
        """Which share of the temperature's variance it explains."""
        most = (self.variance + _PRIOR_WEIGHT_S) * self.heat
        return max(self.covariance, 0.0) ** 2 / most if most > 0 else 0.0


class Fit(msgspec.Struct, frozen=True):
    """What is known of one temperature."""

    at: float
    passed: Passed
    offset_c: float
    drift_c_s: float
    sums: tuple[Sums, ...]
    best: int = 2

    @property
    def tau_s(self) -> float:
        """The time constant."""
        return TAUS_S[self.best]

    @property
    def gain_c(self) -> float:
        """How much hotter full load makes it, soon."""
        return self.sums[self.best].gain_c

    def ahead(self, load: float, horizon_s: float) -> float:
        """The temperature in `horizon_s` at this load."""
        kept = math.exp(-horizon_s / self.tau_s)
        return self._offset_ahead(horizon_s) + self.gain_c * (self.sums[self.best].x * kept + load * (1 - kept))

    def largest_load(self, celsius: float, horizon_s: float) -> float:
        """The load, unbounded, with which it is at `celsius` in `horizon_s`; it ends at the one that holds it there."""
        kept = math.exp(-horizon_s / self.tau_s)
        wanted = (celsius - self._offset_ahead(horizon_s)) / self.gain_c
        return (wanted - self.sums[self.best].x * kept) / (1 - kept)

    def _offset_ahead(self, horizon_s: float) -> float:
        """Heat that is coming is believed, coolness when it has come."""
        return self.offset_c + max(self.drift_c_s, 0.0) * horizon_s


def start(celsius: float, load: float, now: float) -> Fit:
    """Knows nothing but one reading, taken for a steady state."""
    sums = tuple(Sums(load, Passed(load)) for _ in TAUS_S)
    return Fit(now, Passed(celsius), celsius - _PRIOR_GAIN_C * load, 0.0, sums)


def learn(fit: Fit, celsius: float, load: float, now: float) -> Fit:
    """Takes in the temperature at `now`, and the load, 0 to 1, since the last one."""
    step_s = now - fit.at
    if step_s <= 0:
        return fit
    passed = fit.passed.take(celsius, step_s)
    sums = tuple(_follow(each, tau_s, load, step_s, passed.quick) for each, tau_s in zip(fit.sums, TAUS_S, strict=True))
    best = max(range(len(sums)), key=lambda number: sums[number].explained)
    if sums[best].explained < sums[fit.best].explained * _BETTER:
        best = fit.best
    old, new = fit.sums[fit.best], sums[best]
    # A new gain or time constant says the same of the moment before.
    before_c = fit.offset_c + old.gain_c * old.x - new.gain_c * fit.sums[best].x
    expected_c = before_c + fit.drift_c_s * step_s
    error_c = celsius - new.gain_c * new.x - expected_c
    offset_c = expected_c + error_c * _share(step_s, _SURPRISE_S if error_c > _SURPRISE_C else _OFFSET_S)
    drift_c_s = fit.drift_c_s + ((offset_c - before_c) / step_s - fit.drift_c_s) * _share(step_s, _DRIFT_S)
    return Fit(now, passed, offset_c, drift_c_s, sums, best)


def coast(fit: Fit, load: float, now: float) -> Fit:
    """Lets time pass without learning: what the temperature does now is not the load's doing."""
    step_s = max(now - fit.at, 0.0)
    sums = tuple(
        msgspec.structs.replace(each, x=each.x + (load - each.x) * _share(step_s, tau_s))
        for each, tau_s in zip(fit.sums, TAUS_S, strict=True)
    )
    return msgspec.structs.replace(fit, at=now, sums=sums)


def _follow(sums: Sums, tau_s: float, load: float, step_s: float, quick_c: float) -> Sums:
    x = sums.x + (load - sums.x) * _share(step_s, tau_s)
    passed = sums.passed.take(x, step_s)
    news = step_s * passed.quick**2
    kept = max(1 - news / _ENOUGH_S, 0.0)
    return Sums(
        x,
        passed,
        sums.variance * kept + news,
        sums.covariance * kept + step_s * passed.quick * quick_c,
        sums.heat * kept + step_s * quick_c**2,
    )


def _share(step_s: float, tau_s: float) -> float:
    return -math.expm1(-step_s / tau_s)
