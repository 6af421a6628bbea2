"""Judges a revision that has begun to serve, by what became of its requests. Pure.

Errors are judged by Wald's sequential probability ratio test (A. Wald, Sequential Tests of Statistical Hypotheses,
1945): after each request the logarithm of how much likelier its outcome is under "errs too often" than under "errs as
it may" is added up; above ln((1-β)/α) the revision goes back, below ln(β/(1-α)) it is found good. With that a revision
that errs no more often than it may is sent back with probability α at most. Slowness is judged by the same test over
windows of a second, since what else the device does slows many requests in a row.
"""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

from edged.bundle.manifest import Soak as Rules
from edged.errors import Code
from edged.types import Outcome
from edged.update.machine import Record, Soaked
from edged.update.reasons import Reason

ALPHA = 1e-5
"""How likely a good revision is sent back: the false-alarm rate of each of the tests."""
BETA = 1e-3
"""How likely one that errs as often as the alternative says is found good."""

# Too rare to be told from chance in any soak: a predecessor that never erred does not forbid a single error.
_LEAST_RATE = 0.001

# The alternative: so many times as often as it may, and at least so much more often.
_TIMES = 3.0
_MORE = 0.01

# Below this many requests the predecessor's own record says too little, and the author's ceiling holds alone; it takes
# more to excuse what the author does not allow.
_RECORD = 200
_EXCUSE = 1000

# A window is slow when most of its requests take longer than this many times the predecessor's median.
_SLOW_TIMES = 2.0
_WINDOW_S = 1.0
_WINDOW_REQUESTS = 10
_SLOW_MAY, _SLOW_IS = 0.15, 0.6

# A worker that dies so often is no accident; one hang is the end, since it costs a caller the whole time limit.
CRASHES = 3

# A rate seen is bounded from above by Wilson's score interval (1927) at so many standard errors: P < 10⁻⁵.
_SIGMAS = 4.27


_NONE = Soaked()


class Verdict(StrEnum):
    """What the soak says."""

    OPEN = "open"
    GOOD = "good"
    BAD = "bad"


class Sprt(msgspec.Struct):
    """A sequential test whether something happens with rate `may` or with rate `is_`, which is higher."""

    may: float
    is_: float
    ratio: float = 0.0

    def add(self, *, happened: bool) -> None:
        """One more observation."""
        if happened:
            self.ratio += math.log(self.is_ / self.may)
        else:
            self.ratio += math.log((1 - self.is_) / (1 - self.may))
            # What went well long ago says nothing of now. From this floor a good revision rises above _BAD with a
            # probability of α² per request: over 100,000 of them its chance of being sent back is 2·α.
            self.ratio = max(self.ratio, -_BAD)

    @property
    def verdict(self) -> Verdict:
        """What has been shown so far."""
        if self.ratio >= _BAD:
            return Verdict.BAD
        return Verdict.GOOD if self.ratio <= _GOOD else Verdict.OPEN


_BAD = math.log((1 - BETA) / ALPHA)
_GOOD = math.log(BETA / (1 - ALPHA))


def allowed_rate(rules: Rules, old: Record) -> float:
    """How often a revision may err: as its author says, and no more often than its predecessor can be said to have."""
    count = old.requests
    if count < _RECORD:
        return max(rules.max_error_rate, _LEAST_RATE)
    rate, square = old.failed / count, _SIGMAS**2
    spread = math.sqrt(rate * (1 - rate) / count + square / (4 * count**2))
    bound = (rate + square / (2 * count) + _SIGMAS * spread) / (1 + square / count)
    if rate > rules.max_error_rate:
        return min(max(bound if count >= _EXCUSE else rules.max_error_rate, _LEAST_RATE), 0.5)
    return max(min(bound, rules.max_error_rate), _LEAST_RATE)


class Soak:
    """One soak. It is told of each request, and of each death of a worker; `judge` says how it stands."""

    def __init__(
        self,
        rules: Rules,
        old: Record,
        began_s: float,
        *,
        least_s: float = 0.0,
        budget_s: float = 0.0,
        before: Soaked = _NONE,
    ) -> None:
        """`began_s` on the clock that later times are of; `least_s`: no verdict that it is good before that time.

        `budget_s`: what the author allows a request to take; within it nothing is slow. `before`: how far it had come
        when it was begun again; it goes on from there, its tests too.
        """
        may = allowed_rate(rules, old)
        self.old = old
        self.requests = 0
        self.failed = 0
        self.crashes = 0
        self.hangs = 0
        self.windows = 0
        self.slow_windows = 0
        self._rules = rules
        self._began_s = began_s
        self._least_s = least_s
        self._before = before
        self._errors = Sprt(may, min(max(may * _TIMES, may + _MORE), (1 + may) / 2), before.errors)
        self._slowness = Sprt(_SLOW_MAY, _SLOW_IS, before.slowness)
        self._slow_s = max(old.median_s * _SLOW_TIMES, budget_s) if old.median_s else math.inf
        self._window_ends_s = began_s + _WINDOW_S
        self._in_window = 0
        self._slow = 0

    def add(self, outcome: Outcome, now_s: float) -> None:
        """Counts a request that reached the revision. Refusals are not told."""
        self.requests += 1
        self.failed += not outcome.ok
        self._errors.add(happened=not outcome.ok)
        if outcome.code == Code.WORKER_HANG:
            self.hangs += 1
        if outcome.ok:
            if now_s >= self._window_ends_s and self._in_window >= _WINDOW_REQUESTS:
                self._close_window(now_s)
            self._in_window += 1
            self._slow += outcome.took_s > self._slow_s

    def _close_window(self, now_s: float) -> None:
        slow = self._slow * 2 > self._in_window
        self.windows += 1
        self.slow_windows += slow
        self._slowness.add(happened=slow)
        self._in_window = self._slow = 0
        self._window_ends_s = now_s + _WINDOW_S

    def judge(self, now_s: float) -> tuple[Verdict, Reason | None, str]:
        """The verdict now, its reason when it is bad, and in words."""
        lasted = f"{now_s - self._began_s:.0f} s"
        after = f"after {self.requests} requests and {lasted}"
        earlier = ""
        if self._before.lasted_s:
            earlier = f", after {self._before.requests} requests in {self._before.lasted_s:.0f} s before it went on"
        so_far = f"{self.failed} of {self.requests} requests failed in {lasted}{earlier}"
        if self.hangs:
            return Verdict.BAD, Reason.WORKER_HANG, f"its worker hung {after}"
        if self.crashes >= CRASHES:
            return Verdict.BAD, Reason.CRASH_LOOP, f"its worker ended {self.crashes} times {after}"
        if self._errors.verdict is Verdict.BAD:
            found = f"{self.failed} of {self.requests} requests failed{earlier}; {self._errors.may:.2%} may"
            return Verdict.BAD, Reason.ERROR_RATE, found
        if self._slowness.verdict is Verdict.BAD:
            found = f"most requests took over {self._slow_s * 1e3:.1f} ms in {self.slow_windows} of {self.windows} s"
            return Verdict.BAD, Reason.LATENCY_BUDGET, found + earlier
        enough = self.proven and self._errors.verdict is Verdict.GOOD and self._slowness.ratio <= 0
        if enough and self.so_far(now_s).lasted_s >= self._least_s:
            return Verdict.GOOD, None, so_far
        return Verdict.OPEN, None, so_far

    def is_over(self, now_s: float) -> bool:
        """Whether the longest time has passed."""
        return self.so_far(now_s).lasted_s >= max(self._rules.max_s, self._least_s)

    def waits_s(self, now_s: float) -> float:
        """How long until time alone may change the verdict; infinite where it cannot any more."""
        lasted_s = self.so_far(now_s).lasted_s
        ends_s = (self._least_s, max(self._rules.max_s, self._least_s))
        return min((each - lasted_s for each in ends_s if each > lasted_s), default=math.inf)

    @property
    def proven(self) -> bool:
        """Whether it saw what its rules ask for."""
        return self._before.requests + self.requests >= self._rules.min_requests

    def so_far(self, now_s: float) -> Soaked:
        """What it has seen, with what it had before it was begun again."""
        before = self._before
        lasted_s, requests = before.lasted_s + now_s - self._began_s, before.requests + self.requests
        return Soaked(lasted_s, requests, self._errors.ratio, self._slowness.ratio)

    def evidence(self) -> dict[str, float]:
        """The numbers that the verdict rests on."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "crashes": self.crashes,
            "hangs": self.hangs,
            "slow_windows": self.slow_windows,
            "windows": self.windows,
            "error_rate_allowed": round(self._errors.may, 6),
            "old_requests": self.old.requests,
            "old_failed": self.old.failed,
            "old_median_ms": round(self.old.median_s * 1e3, 3),
            "old_p99_ms": round(self.old.p99_s * 1e3, 3),
        }
