"""Keeps inferences to a share of the time. Pure.

Whoever has computed for t seconds at a share of d owes t·(1 - d) seconds of computing, which rest pays back at d a
second: t·(1/d - 1) seconds of it. The first priority may go on while no more than 2 s are owed, and the others wait for
what it adds as well; beyond that it rests too, so that the share holds whoever asks. Models that compute at the same
time owe each for itself.
"""

from __future__ import annotations

# How far the first priority may run ahead, in seconds of computing.
_AHEAD_S = 2.0
# Inferences of several seconds are not paid for in full, so that nobody has to rest for minutes.
_MOST_OWED_S = 2 * _AHEAD_S


class Duty:
    """The share, for all models together; times are of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.share = 1.0
        """Above 0."""
        self._owed_s = 0.0
        self._at = 0.0
        """When the last inference ended."""

    def spent(self, seconds: float, now: float, *, ahead: bool = False) -> None:
        """An inference of so many seconds has just ended, in which nobody rested.

        Only one that may run `ahead` adds to what keeps the first priority waiting.
        """
        owed_s = self._owed(max(now - seconds, self._at))
        most_s = _MOST_OWED_S if ahead else max(_AHEAD_S, owed_s)
        self._owed_s = min(owed_s + seconds * (1.0 - self.share), most_s)
        self._at = now

    def rest_s(self, now: float, *, ahead: bool = False) -> float:
        """How long the next inference has to wait; less where it may run `ahead` of the share."""
        if self.share >= 1.0:
            return 0.0
        return max(self._owed(now) - (_AHEAD_S if ahead else 0.0), 0.0) / self.share

    def takes_s(self, work_s: float, now: float, *, ahead: bool = False) -> float:
        """How long so many seconds of computing take, with the rest before and between them."""
        if self.share >= 1.0:
            return work_s
        free_s = max(_AHEAD_S - self._owed(now), 0.0) / (1.0 - self.share) if ahead else 0.0
        at_once_s = min(work_s, free_s)
        return self.rest_s(now, ahead=ahead) + at_once_s + (work_s - at_once_s) / self.share

    def _owed(self, now: float) -> float:
        return max(self._owed_s - self.share * (now - self._at), 0.0)
