"""At most so many requests a second: a token bucket. Pure."""

from __future__ import annotations

# A bucket holds what comes in this time, and at least one request.
_BURST_S = 0.1
# The first priority may take what comes in this time beforehand, and at least one request; the others wait for it.
_AHEAD_S = 2.0


class Bucket:
    """Lets requests pass at a rate; times are of a monotonic clock, in seconds."""

    def __init__(self, rate: float, now: float) -> None:
        """`rate`: requests per second, above 0."""
        self.rate = rate
        self._most = max(rate * _BURST_S, 1.0)
        self._ahead = max(rate * _AHEAD_S, 1.0)
        self._tokens = self._most
        self._at = now

    def take(self, now: float, *, ahead: bool = False) -> bool:
        """Whether one more may pass now, be it `ahead` of the rate; if so, it has."""
        self._tokens = min(self._tokens + max(now - self._at, 0.0) * self.rate, self._most)
        self._at = now
        if self._tokens < (1.0 - self._ahead if ahead else 1.0):
            return False
        self._tokens -= 1.0
        return True
