"""What waits for one model: in lines by priority, counted as it comes and goes, taken batch by batch. Pure.

Adding, removing and taking a request cost the same however many wait.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from edged.serving.admission import Admitted, BatchKey
from edged.serving.division import Division
from edged.serving.regions import Shared
from edged.serving.request import Answer, Contents

# Of so many batches in a row at least one is led by whoever waits longest, whatever its priority.
FAIR_BATCHES = 8


class Pending(msgspec.Struct, eq=False):
    """A request that waits, or is being executed. `deadline` is of the loop's clock."""

    admitted: Admitted
    contents: tuple[Contents, ...]
    size: int
    """Bytes of the contents, those in shared memory apart."""
    deadline: float
    render: Callable[[Answer], bytes]
    """Makes the reply of an answer, whose parts do not outlive the call."""
    answer: asyncio.Future[bytes]
    level: int = 1
    """Its priority: 1 is the highest."""
    arrived_ns: int = 0
    """Of the monotonic clock."""
    retried: bool = False
    """Its worker died once: it is tried once more, alone."""
    place: int = 0
    """Where it stands among all that ever waited; 0: it does not wait."""
    stood: int = 0
    """Where it stood last, when it does not."""
    number: int = 0
    """Its number among all that were ever under way."""
    shared: Shared | None = None
    """What of it lies in shared memory; None: nothing."""
    division: Division | None = None
    """How far it was executed, where that is done in parts; None: it was not begun."""
    synthetic: bool = False
    """Whether its inputs are made up."""

    @property
    def rows(self) -> int:
        """Those that are still to be executed."""
        return self.admitted.rows if self.division is None else self.division.left


_Line = OrderedDict[int, Pending]


class Waiting:
    """The lines of one model.

    A batch is led by the oldest of the best priority; others of its key follow, best first, while the rows of all fit.
    So that nobody starves, after 7 batches in a row whose leader was not the oldest of all the oldest of all leads:
    with n older ones before it, a request is executed within 8·(n + 1) batches, those tried again apart, and one that
    is executed in parts counting as often as it has parts. Where requests are to be answered in order, there is one
    line, and a batch takes from its front only.
    """

    def __init__(self, *, in_order: bool = False) -> None:
        self.count = 0
        self.size = 0
        """Bytes."""
        self._in_order = in_order
        self._last_place = 0
        self._again: _Line = OrderedDict()
        self._lines: dict[int, _Line] = {}
        self._levels: list[int] = []
        """Those at which somebody waits, best first."""
        self._keyed: dict[tuple[int, BatchKey], _Line] = {}
        self._counts: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        self._rows_of: dict[BatchKey, int] = {}
        self._unfair = 0
        self.fair = True
        """Whether the oldest of all ever leads: not while all but the best would have to rest."""

    def __iter__(self) -> Iterator[Pending]:
        """All that wait, in the order in which they would lead."""
        yield from self._again.values()
        for level in self._levels:
            yield from self._lines[level].values()

    def add(self, pending: Pending) -> None:
        """Puts a request at the end of its line; one that is tried again before all others."""
        self._last_place += 1
        self._put(pending, self._last_place)

    def give_back(self, pending: Pending) -> None:
        """Puts the request that led last, and was executed in part, to where it stood."""
        self._put(pending, pending.stood)
        lines = [self._again] if pending.retried else [self._lines[pending.level], self._keyed[_line_of(pending)]]
        for line in lines:
            line.move_to_end(pending.place, last=False)

    def _put(self, pending: Pending, place: int) -> None:
        pending.place = place
        self.count += 1
        self.size += pending.size
        level, key, rows = pending.level, pending.admitted.key, pending.rows
        self._counts[level] = self._counts.get(level, 0) + 1
        self._rows[level] = self._rows.get(level, 0) + rows
        if pending.retried:
            self._again[pending.place] = pending
            return
        self._rows_of[key] = self._rows_of.get(key, 0) + rows
        line = self._lines.get(level)
        if line is None:
            line = self._lines[level] = OrderedDict()
            insort(self._levels, level)
        line[pending.place] = pending
        line = self._keyed.get((level, key))
        if line is None:
            line = self._keyed[level, key] = OrderedDict()
        line[pending.place] = pending

    def remove(self, pending: Pending) -> bool:
        """Takes a request out; False where it does not wait."""
        place = pending.place
        if not place:
            return False
        pending.place, pending.stood = 0, place
        self.count -= 1
        self.size -= pending.size
        level, key, rows = pending.level, pending.admitted.key, pending.rows
        self._counts[level] -= 1
        self._rows[level] -= rows
        if pending.retried:
            del self._again[place]
            return True
        self._rows_of[key] -= rows
        line = self._lines[level]
        del line[place]
        if not line:
            del self._lines[level]
            self._levels.remove(level)
        line = self._keyed[level, key]
        del line[place]
        if not line:
            del self._keyed[level, key]
            if not any((other, key) in self._keyed for other in self._levels):
                del self._rows_of[key]
        return True

    def take(self, max_rows: int) -> list[Pending]:
        """Takes the next batch out: of at most `max_rows` rows, unless its leader alone has more; 0: of one request.

        One that is executed in parts is alone. Empty where nothing waits. What somebody was told the end of already
        goes out too, and into no batch.
        """
        leader = self._leader(choose=True)
        if leader is None:
            return []
        self.remove(leader)
        batch = [leader]
        free = max_rows - leader.admitted.rows
        if not leader.retried and leader.division is None:
            for line in self._followers(leader):
                while line and free > 0:
                    pending = next(iter(line.values()))
                    if pending.admitted.key != leader.admitted.key or pending.division is not None:
                        break
                    if not pending.answer.done():
                        if pending.admitted.rows > free:
                            break
                        batch.append(pending)
                        free -= pending.admitted.rows
                    self.remove(pending)
        return batch

    def full(self, rows: int) -> bool:
        """Whether the next batch would have `rows` rows or all that its leader lets it have, or takes nobody along."""
        leader = self._leader(choose=False)
        if leader is None or leader.retried or leader.division is not None:
            return True
        return self._rows_of[leader.admitted.key] >= min(rows, leader.admitted.max_rows)

    def before(self, level: int) -> tuple[int, int]:
        """The requests that wait and go before a new one of `level`, and their rows."""
        count = rows = 0
        for other, number in self._counts.items():
            if other <= level:
                count += number
                rows += self._rows[other]
        return count, rows

    def below(self, level: int) -> Iterator[Pending]:
        """What is of lower priority than `level`, the lowest first and of each the newest; not what is tried again."""
        for other in reversed(self._levels):
            if other <= level:
                return
            yield from reversed(self._lines[other].values())

    def stalest(self, level: int) -> Pending | None:
        """The oldest of the lowest priority, of those that are not better than `level` and were not begun."""
        for other in reversed(self._levels):
            if other < level:
                break
            for pending in self._lines[other].values():
                if pending.division is None:
                    return pending
        return None

    def leader(self) -> Pending | None:
        """Who leads the next batch; None when nothing waits."""
        return self._leader(choose=False)

    def _leader(self, *, choose: bool) -> Pending | None:
        while self._again or self._levels:
            leader = self._next(choose=choose)
            if not leader.answer.done():
                return leader
            self.remove(leader)
        return None

    def _next(self, *, choose: bool) -> Pending:
        if self._again:
            return next(iter(self._again.values()))
        leader = next(iter(self._lines[self._levels[0]].values()))
        if len(self._levels) > 1:
            oldest = min((next(iter(self._lines[level].values())) for level in self._levels), key=_place)
            if self.fair and self._unfair >= FAIR_BATCHES - 1:
                leader = oldest
            if choose and not leader.answer.done():
                self._unfair = 0 if leader is oldest else self._unfair + 1
        elif choose:
            self._unfair = 0
        return leader

    def _followers(self, leader: Pending) -> Iterator[_Line]:
        """The lines from which a batch takes, best first; a line is not looked at again once it is empty."""
        if self._in_order:
            yield self._lines.get(leader.level, OrderedDict())
            return
        for level in list(self._levels):
            line = self._keyed.get((level, leader.admitted.key))
            if line is not None:
                yield line


def _place(pending: Pending) -> int:
    return pending.place


def _line_of(pending: Pending) -> tuple[int, BatchKey]:
    return pending.level, pending.admitted.key
