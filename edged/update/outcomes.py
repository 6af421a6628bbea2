"""How each revision has done since the daemon's start: the record that its successor is held against."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from edged.types import Outcome
from edged.update.machine import Record

# Latencies are counted in buckets each 5 % wider than the one before, from a microsecond on.
_GROWTH = math.log(1.05)
_LEAST_S = 1e-6


class _Counted(msgspec.Struct):
    ok: int = 0
    failed: int = 0
    latencies: dict[int, int] = {}

    def record(self) -> Record:
        return Record(self.ok, self.failed, self._above_s(0.5), self._above_s(0.01))

    def _above_s(self, share: float) -> float:
        """The upper end of the bucket above which `share` of all latencies lie; 0 where nothing was answered."""
        above = self.ok * share
        for bucket in sorted(self.latencies, reverse=True):
            above -= self.latencies[bucket]
            if above < 0:
                return _LEAST_S * math.exp((bucket + 1) * _GROWTH)
        return 0.0


class Outcomes:
    """Counts what serving tells, and passes it on to who watches a revision."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, int], _Counted] = {}
        self._listeners: dict[tuple[str, int], Callable[[Outcome], None]] = {}

    def take(self, outcome: Outcome) -> None:
        """Counts one."""
        key = (outcome.model, outcome.revision)
        counted = self._counted.get(key)
        if counted is None:
            counted = self._counted[key] = _Counted()
        if outcome.ok:
            counted.ok += 1
            bucket = int(math.log(max(outcome.took_s, _LEAST_S) / _LEAST_S) / _GROWTH)
            counted.latencies[bucket] = counted.latencies.get(bucket, 0) + 1
        else:
            counted.failed += 1
        listener = self._listeners.get(key)
        if listener is not None:
            listener(outcome)

    def listen(self, model: str, revision: int, listener: Callable[[Outcome], None] | None) -> None:
        """Has `listener` told of each further outcome of a revision; None: nobody."""
        if listener is None:
            self._listeners.pop((model, revision), None)
        else:
            self._listeners[model, revision] = listener

    def record(self, model: str, revision: int) -> Record:
        """How a revision has done so far."""
        return self._counted.get((model, revision), _Counted()).record()

    def forget(self, model: str, revision: int) -> None:
        """Nobody will ask for it again."""
        self._counted.pop((model, revision), None)
