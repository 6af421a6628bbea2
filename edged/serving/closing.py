"""When a batch that could still grow is closed. Pure.

The transport brings one request at a turn of the loop, so a batch that left at once would never hold two. It leaves
when it has all its rows, or nobody has come for a moment; the model's own delay, where it has one, takes the place of
that. Callers that wait for their answer come again in the same number: a batch that is as large as
the largest of late leaves at once, so that neither a lone caller waits nor the last of many. Every so often one is
waited with all the same, to see whether there are more by now. No delay takes more than half of the time that a caller
gives: what is executed after his deadline helps nobody.
"""

from __future__ import annotations

from edged.bundle.manifest import Queue as Rules

# A batch is closed when nobody has come for so long (benchmarks/serving.py).
QUIET_NS = 200_000

# More requests than a queue holds.
_NEVER = 2**63

# Of so many batches one is waited with although it is as large as those before it.
_PROBE_EVERY = 16


class Closing:
    """Decides for the batches of one model, one after the other."""

    def __init__(self, rules: Rules) -> None:
        self._delay_ns = rules.max_delay_us * 1000
        self._preferred = rules.preferred_batch_size
        self._batches = 0
        self._largest = self._largest_before = 0
        """Requests in the largest batch since the last probe, and between that and the one before."""
        self._count = 0
        self._since_ns = 0

    @property
    def declared(self) -> bool:
        """Whether the model itself says how long its batches wait."""
        return bool(self._delay_ns)

    def rows(self, max_rows: int) -> int:
        """With how many rows a batch leaves at once."""
        return min(self._preferred, max_rows) if self._delay_ns and self._preferred else max_rows

    @property
    def enough(self) -> int:
        """With how many requests a batch leaves at once, whoever else may come."""
        probing = not self._batches % _PROBE_EVERY
        return _NEVER if probing or self._delay_ns else max(self._largest, self._largest_before)

    def begin(self, count: int, now_ns: int) -> None:
        """A batch may be formed from now on; `count` requests wait."""
        self._batches += 1
        if not self._batches % _PROBE_EVERY:
            self._largest, self._largest_before = 0, self._largest
        self._count, self._since_ns = count, now_ns

    def wait_ns(self, count: int, arrived_ns: int, now_ns: int) -> int:
        """How long the batch may be waited with before this is asked again; 0: it leaves.

        `count` requests wait; their leader has since `arrived_ns`.
        """
        if self._delay_ns:
            return max(self._delay_ns - (now_ns - arrived_ns), 0)
        if count > self._count:
            self._count, self._since_ns = count, now_ns
        if count < self.enough and (left_ns := QUIET_NS - (now_ns - self._since_ns)) > 0:
            return left_ns
        self._largest = max(self._largest, count)
        return 0


def spare_ns(waited_ns: int, left_ns: int, batch_ns: int) -> int:
    """How long a caller may yet be kept waiting for company: half of the time that he gives, but for a batch's own.

    He has waited for `waited_ns`, and his deadline is `left_ns` away.
    """
    return max((waited_ns + left_ns - batch_ns) // 2 - waited_ns, 0)
