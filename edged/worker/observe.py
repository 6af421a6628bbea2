"""Counts the results of live batches in the bins of their reference, and finds those to be reviewed. Child's end only.

What leaves the worker are counts; no input, and no result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.worker.messages import Counted, Watched

MOST_RESULTS = 1024
"""Of one output and batch; of more, so many are looked at, evenly spread: a segmentation has a million."""


class _Counter:
    """One watched output."""

    def __init__(self, watched: Watched, *, batched: bool) -> None:
        self.watched = watched
        self._row_axes = 1 if batched else 0
        self._edges = np.asarray(watched.edges, np.float64)
        self._of_class = np.asarray(watched.of_class, np.int64)
        self._last_class = (len(watched.of_class) or watched.count) - 1
        low, high = watched.below, watched.above
        self._limits = None if low is None and high is None else (_or(low, -np.inf), _or(high, np.inf))
        self.counts = np.zeros(watched.count, np.int64)
        self.flagged = 0

    def take(self, output: NDArray[Any]) -> NDArray[np.intp]:
        """Counts the results of an output; which of its rows along axis 0 hold one to be reviewed."""
        whole = self.watched.kind != "value" and output.ndim > self._row_axes
        width = output.shape[-1] if whole else 1
        results = output.reshape(-1, width) if output.size else output.reshape(0, 1)
        step = -(-len(results) // MOST_RESULTS) or 1
        looked_at = results[::step]
        if self.watched.kind == "classes":
            found = np.minimum(looked_at.argmax(1), self._last_class)  # an axis of free size may hold more
            places = self._of_class[found] if len(self._of_class) else found
        else:
            values = looked_at.max(1) if width > 1 else looked_at[:, 0]
            places = np.searchsorted(self._edges, values)
        self.counts += np.bincount(places, minlength=self.watched.count)
        if self._limits is None or self.watched.kind == "classes":
            return _NONE
        low, high = self._limits
        doubtful = np.flatnonzero(~((values >= low) & (values <= high)))  # NaN is in no range
        self.flagged += len(doubtful)
        per_row = max(len(results) // max(output.shape[0], 1), 1) if output.ndim else 1
        return doubtful * step // per_row

    def drain(self, number: int) -> Counted | None:
        """What was counted since the last time; None where nothing was."""
        (bins,) = self.counts.nonzero()
        if not len(bins):
            return None
        found = Counted(number, tuple(bins.tolist()), tuple(self.counts[bins].tolist()), self.flagged)
        self.counts[:] = 0
        self.flagged = 0
        return found


_NONE = np.empty(0, np.intp)


class Observer:
    """All watched outputs of a model."""

    def __init__(self, watched: Sequence[Watched], *, batched: bool) -> None:
        self._counters: Mapping[str, list[_Counter]] = {
            name: [_Counter(each, batched=batched) for each in watched if each.output == name]
            for name in dict.fromkeys(each.output for each in watched)
        }
        self._numbers = {id(watched): number for number, watched in enumerate(watched)}

    def __bool__(self) -> bool:
        return bool(self._counters)

    def look(self, names: Sequence[str], outputs: Sequence[NDArray[Any]]) -> set[int]:
        """Counts what came of one execution; the rows along axis 0 that are to be reviewed."""
        rows: set[int] = set()
        for name, output in zip(names, outputs, strict=True):
            for counter in self._counters.get(name, ()):
                rows.update(counter.take(output).tolist())
        return rows

    def drain(self) -> tuple[Counted, ...]:
        """What was counted since the last time."""
        found = [
            counter.drain(self._numbers[id(counter.watched)])
            for counters in self._counters.values()
            for counter in counters
        ]
        return tuple(each for each in found if each is not None)


def members(rows: Sequence[int], found: set[int]) -> list[int]:
    """The members to whom some rows of a batch belong; `rows[m]` are those of member m."""
    ends = np.cumsum(rows)
    return sorted(set(np.searchsorted(ends, sorted(found), side="right").tolist()))


def _or(limit: float | None, otherwise: float) -> float:
    return otherwise if limit is None else limit
