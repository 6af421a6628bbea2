"""A first-order model of how load heats a device, fitted while it runs. Pure.

    temperature = offset + gain · x,   dx/dt = (load - x) / tau

For each of some time constants the load is filtered to x, and the temperature is regressed on it (least squares with
exponential forgetting); the time constant that explains most is taken. Regressing on the filtered load, and not the
slope on the temperature, keeps the coarse steps of real sensors out of the fit (output-error identification; Ljung,
System Identification, 4.2). Both sides are high-passed first, since a governor that computes less while the case and
the room slowly warm would otherwise teach the fit that computing cools. What is slow, and what the load does not
explain (the room, a fan that fails, a neighbour), is followed by the offset within seconds.
"""

from __future__ import annotations

import math

import msgspec

TAUS_S = (4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
_FORGET_S = 3600.0
# What is slower than this is left to the offset.
_SLOW_S = 120.0
# How fast the offset follows what the load does not explain.
_OFFSET_S = 15.0
# The gain is drawn to this, with the weight of so much variance of the load times seconds.
_PRIOR_GAIN_C, _PRIOR_WEIGHT_S = 20.0, 1.0
# Below it, one does not heat this device by computing.
_LEAST_GAIN_C = 2.0
# A time constant that explains more must explain so much more, or the choice would wander.
_BETTER = 1.05


class Sums(msgspec.Struct, frozen=True, array_like=True):
    """Of one time constant: the filtered load, the slow part of that, and, of the rest, sums over seconds."""

    x: float
    slow: float
    variance: float = 0.0
    covariance: float = 0.0

    @property
    def gain_c(self) -> float:
        """How much hotter full load makes it."""
        gain_c = (self.covariance + _PRIOR_GAIN_C * _PRIOR_WEIGHT_S) / (self.variance + _PRIOR_WEIGHT_S)
        return max(gain_c, _LEAST_GAIN_C)

    @property
    def explained(self) -> float:
        """How much of the temperature's variance it explains."""
        return max(self.covariance, 0.0) ** 2 / (self.variance + _PRIOR_WEIGHT_S)


class Fit(msgspec.Struct, frozen=True):
    """What is known of one temperature."""

    at: float
    slow_c: float
    offset_c: float
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

    @property
    def evidence_s(self) -> float:
        """How much the load has varied: the variance of its filtered form, summed over seconds."""
        return self.sums[self.best].variance

    def ahead(self, load: float, horizon_s: float) -> float:
        """The temperature in `horizon_s` at this load."""
        kept = math.exp(-horizon_s / self.tau_s)
        return self.offset_c + self.gain_c * (self.sums[self.best].x * kept + load * (1 - kept))

    def largest_load(self, celsius: float, horizon_s: float) -> float:
        """The load, unbounded, with which it is at `celsius` in `horizon_s`; it ends at the one that holds it there."""
        kept = math.exp(-horizon_s / self.tau_s)
        return ((celsius - self.offset_c) / self.gain_c - self.sums[self.best].x * kept) / (1 - kept)


def start(celsius: float, load: float, now: float) -> Fit:
    """Knows nothing but one reading, taken for a steady state."""
    return Fit(now, celsius, celsius - _PRIOR_GAIN_C * load, tuple(Sums(load, load) for _ in TAUS_S))


def learn(fit: Fit, celsius: float, load: float, now: float) -> Fit:
    """Takes in the temperature at `now`, and the load, 0 to 1, since the last one."""
    step_s = now - fit.at
    if step_s <= 0:
        return fit
    slow_c = fit.slow_c + (celsius - fit.slow_c) * _share(step_s, _SLOW_S)
    sums = tuple(
        _follow(each, tau_s, load, step_s, celsius - slow_c) for each, tau_s in zip(fit.sums, TAUS_S, strict=True)
    )
    best = max(range(len(sums)), key=lambda number: sums[number].explained)
    if sums[best].explained < sums[fit.best].explained * _BETTER:
        best = fit.best
    old, new = fit.sums[fit.best], sums[best]
    unchanged_c = fit.offset_c + old.gain_c * old.x - new.gain_c * fit.sums[best].x  # a new gain says the same of before
    offset_c = unchanged_c + (celsius - new.gain_c * new.x - unchanged_c) * _share(step_s, _OFFSET_S)
    return Fit(now, slow_c, offset_c, sums, best)


def _follow(sums: Sums, tau_s: float, load: float, step_s: float, quick_c: float) -> Sums:
    x = sums.x + (load - sums.x) * _share(step_s, tau_s)
    slow = sums.slow + (x - sums.slow) * _share(step_s, _SLOW_S)
    kept = math.exp(-step_s / _FORGET_S)
    quick = x - slow
    return Sums(x, slow, sums.variance * kept + step_s * quick**2, sums.covariance * kept + step_s * quick * quick_c)


def _share(step_s: float, tau_s: float) -> float:
    return -math.expm1(-step_s / tau_s)
