"""Keeps inferences to a share of the time. Pure.

Whoever has computed for t seconds at a share of d owes t·(1/d - 1) seconds of rest. Priority 1 need not wait for it;
what it adds, the others wait for as well. Debts are bounded, so that a change of the share is soon felt.
"""

from __future__ import annotations

_MOST_OWED_S = 2.0


class Duty:
    """The share, for all models together; times are of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.share = 1.0
        self._free_at = 0.0

    def spent(self, seconds: float, now: float) -> None:
        """An inference of so many seconds has just ended."""
        if self.share < 1.0:
            owed = max(self._free_at - now, 0.0) + seconds * (1.0 / max(self.share, 0.01) - 1.0)
            self._free_at = now + min(owed, _MOST_OWED_S)

    def rest_s(self, level: int, now: float) -> float:
        """How long a batch led by a request of `level` has to wait."""
        return 0.0 if level == 1 or self.share >= 1.0 else max(self._free_at - now, 0.0)
