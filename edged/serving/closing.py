"""When a batch that could still grow is closed. Pure.

The transport brings one request at a turn of the loop, so a batch that left at once would never hold two. It leaves
when it has all its rows, or the loop has turned a few times and nobody came; the model's own delay, where it has one,
lets it wait longer. A batch that waited in vain so often in a row belongs to a lone caller: from then on, only every
so many is waited with, to see whether that still holds.
"""

from __future__ import annotations

from edged.bundle.manifest import Queue as Rules

# Turns without an arrival after which a batch is closed, and how long that may take (benchmarks/serving.py).
QUIET_TURNS = 30
LONGEST_NS = 200_000

# After so many batches that waited in vain only every so many waits.
_IN_VAIN = 8
_EVERY = 16


class Closing:
    """Decides for the batches of one model, one after the other."""

    def __init__(self, rules: Rules) -> None:
        self._delay_ns = rules.max_delay_us * 1000
        self._preferred = rules.preferred_batch_size
        self._in_vain = 0
        self._since_ns = 0
        self._quiet = 0
        self._first = self._count = 0

    def rows(self, max_rows: int) -> int:
        """With how many rows a batch leaves at once."""
        return min(self._preferred, max_rows) if self._delay_ns and self._preferred else max_rows

    def begin(self, count: int, now_ns: int) -> None:
        """A batch may be formed from now on; `count` requests wait."""
        self._since_ns = now_ns
        self._first = self._count = count
        self._quiet = 0

    def wait_s(self, count: int, arrived_ns: int, now_ns: int) -> float:
        """How long the batch may still be waited with; 0: a turn of the loop, below 0: it leaves.

        Asked once a turn. `count` requests wait; their leader has since `arrived_ns`.
        """
        if self._delay_ns > now_ns - arrived_ns:
            return (self._delay_ns - (now_ns - arrived_ns)) / 1e9
        if self._delay_ns:
            return -1.0
        if self._first == count == 1 and self._in_vain >= _IN_VAIN and self._in_vain % _EVERY:
            self._in_vain += 1
            return -1.0
        if count == self._count:
            self._quiet += 1
        else:
            self._quiet, self._since_ns = 0, now_ns
        self._count = count
        if self._quiet <= QUIET_TURNS and now_ns - self._since_ns < LONGEST_NS:
            return 0.0
        self._in_vain = self._in_vain + 1 if count == 1 else 0
        return -1.0
