"""The deadlines of all requests under way, the next one first. Pure."""

from __future__ import annotations

import heapq

from edged.serving.waiting import Pending

# What is over stays in the heap, two numbers each, until it is more than what is under way and this.
_OVER_KEPT = 64


class Deadlines:
    """One heap for many requests, so that none needs a timer of its own; adding costs O(log n), removing nothing."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._open: dict[int, Pending] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, pending: Pending) -> bool:
        """Takes a request in; whether its deadline is the next one now."""
        if len(self._heap) > 2 * len(self._open) + _OVER_KEPT:
            self._heap = [each for each in self._heap if each[1] in self._open]
            heapq.heapify(self._heap)
        self._last += 1
        pending.number = self._last
        self._open[self._last] = pending
        heapq.heappush(self._heap, (pending.deadline, self._last))
        return self._heap[0][1] == self._last

    def remove(self, pending: Pending) -> None:
        """A request is over, however it ended."""
        self._open.pop(pending.number, None)

    def due(self, now: float) -> list[Pending]:
        """Takes out what has its deadline at `now` or before."""
        late = []
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][1] not in self._open):
            pending = self._open.pop(heapq.heappop(heap)[1], None)
            if pending is not None:
                late.append(pending)
        return late

    def passed(self, now: float) -> bool:
        """Whether there may be something due."""
        return bool(self._heap) and self._heap[0][0] <= now

    def soonest(self) -> Pending | None:
        """Whose deadline is the next one; None when nothing is under way."""
        heap = self._heap
        while heap and heap[0][1] not in self._open:
            heapq.heappop(heap)
        return self._open[heap[0][1]] if heap else None

    @property
    def next(self) -> float | None:
        """The next deadline, perhaps of what is over; None when nothing is under way."""
        return self._heap[0][0] if self._heap else None
