"""Counts the results of live batches in the bins of their reference, and finds those to be reviewed. Child's end only.

What leaves the worker are counts; no input, and no result.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import EdgedError
from edged.worker.messages import Counted, Infer, Watched

MOST_RESULTS = 1024
"""Of one output and batch; of more, so many are looked at, evenly spread: a segmentation has a million."""


# Fewer results than this are counted one by one: numpy's calls would cost more than they save.
_FEW = 32


class _Counter:
    """One watched output."""

    def __init__(self, watched: Watched, number: int, *, batched: bool) -> None:
        self._number = number
        self._classes = watched.kind == "classes"
        self._whole_rows = watched.kind != "value"
        self._row_axes = 1 if batched else 0
        self._edges = list(watched.edges)
        self._of_class = watched.of_class or tuple(range(watched.count))
        low, high = watched.below, watched.above
        reviewed = not self._classes and (low, high) != (None, None)
        self._limits = (_or(low, -math.inf), _or(high, math.inf)) if reviewed else None
        self._counts: dict[int, int] = {}
        self._flagged = 0

    def take(self, output: NDArray[Any]) -> list[int]:
        """Counts the results of an output; which of its rows along axis 0 hold one to be reviewed."""
        width = output.shape[-1] if self._whole_rows and output.ndim > self._row_axes else 1
        if not output.size:
            return []
        results = output.reshape(-1, width)
        count = len(results)
        step = -(-count // MOST_RESULTS)
        if step > 1:
            results = results[::step]
        if self._classes:
            self._count(results.argmax(1))
            return []
        values = results.max(1) if width > 1 else results[:, 0]
        self._count(values)
        if self._limits is None:
            return []
        low, high = self._limits  # NaN is in no range
        doubtful = [place for place, value in enumerate(values.tolist()) if not low <= value <= high]
        self._flagged += len(doubtful)
        per_row = max(count // output.shape[0], 1) if output.ndim else 1
        return [place * step // per_row for place in doubtful]

    def _count(self, found: NDArray[Any]) -> None:
        counts = self._counts
        if len(found) <= _FEW:
            for each in found.tolist():
                place = self._place(each)
                counts[place] = counts.get(place, 0) + 1
            return
        if self._classes:
            places, numbers = np.unique(found, return_counts=True)
            places = np.asarray([self._place(each) for each in places.tolist()])
        else:
            places, numbers = np.unique(np.searchsorted(self._edges, found), return_counts=True)
        for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
            counts[place] = counts.get(place, 0) + number

    def _place(self, result: float) -> int:
        """The bin of one result: NaN falls into the last, as numpy sorts it."""
        if self._classes:  # an axis of free size may hold more classes than the reference
            return self._of_class[min(int(result), len(self._of_class) - 1)]
        return bisect.bisect_left(self._edges, result) if result == result else len(self._edges)

    def drain(self) -> Counted | None:
        """What was counted since the last time; None where nothing was."""
        if not self._counts:
            return None
        found = Counted(self._number, tuple(self._counts), tuple(self._counts.values()), self._flagged)
        self._counts, self._flagged = {}, 0
        return found


class Observer:
    """All watched outputs of a model."""

    def __init__(self, watched: Sequence[Watched], *, batched: bool) -> None:
        self._counters: dict[str, list[_Counter]] = {}
        for number, each in enumerate(watched):
            self._counters.setdefault(each.output, []).append(_Counter(each, number, batched=batched))

    def __bool__(self) -> bool:
        return bool(self._counters)

    def look(self, names: Sequence[str], outputs: Sequence[NDArray[Any]]) -> set[int]:
        """Counts what came of one execution; the rows along axis 0 that are to be reviewed."""
        rows: set[int] = set()
        for name, output in zip(names, outputs, strict=True):
            for counter in self._counters.get(name, ()):
                rows.update(counter.take(output))
        return rows

    def review(
        self,
        asked: Infer,
        whole: Sequence[NDArray[Any]],
        rows: Sequence[int],
        answers: Sequence[list[NDArray[Any]] | EdgedError],
    ) -> tuple[int, ...]:
        """Counts the results of a batch, but for those of its unwatched members; whose are to be reviewed.

        They are in `whole`, of which `rows[m]` are those of member m; where that is empty, in `answers`.
        """
        unwatched = frozenset(asked.unwatched)
        if not whole:
            alone = [
                (member, answer)
                for member, answer in enumerate(answers)
                if not isinstance(answer, EdgedError) and member not in unwatched
            ]
            return tuple([member for member, answer in alone if self.look(asked.outputs, answer)])
        if unwatched:
            left = [0 if member in unwatched else count for member, count in enumerate(rows)]
            watched = np.repeat(np.asarray(left) > 0, rows)
            rows, whole = left, [output[watched] for output in whole]
        found = self.look(asked.outputs, whole)
        return tuple(members(rows, found)) if found else ()

    def drain(self) -> tuple[Counted, ...]:
        """What was counted since the last time."""
        found = [counter.drain() for counters in self._counters.values() for counter in counters]
        return tuple([each for each in found if each is not None])


def members(rows: Sequence[int], found: set[int]) -> list[int]:
    """The members to whom some rows of a batch belong; `rows[m]` are those of member m."""
    ends = np.cumsum(rows)
    return sorted(set(np.searchsorted(ends, sorted(found), side="right").tolist()))


def _or(limit: float | None, otherwise: float) -> float:
    return otherwise if limit is None else limit
