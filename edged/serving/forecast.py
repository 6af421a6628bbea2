"""How long a request will have to wait, judged by how long batches took lately. Pure."""

from __future__ import annotations

import itertools

# Weight of the newest batch in a moving mean: of the last eight batches or so.
_WEIGHT = 1 / 8

# Where a row takes longer than this, a batch twice as large must save this part of it: whoever waits behind the batch,
# however urgent, waits that much longer. Of so many batches one may be twice as large all the same, to see.
DEAR_ROW_S = 0.002
LEAST_GAIN = 0.1
_PROBE_EVERY = 256


class Forecast:
    """Moving means of how long batches take, by the power of two that their rows come to.

    It errs on the side of taking a request in: a batch larger than any seen is taken to last as long as the largest
    that was, and before anything was seen nothing takes any time.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._row_s: dict[int, float] = {}
        self._batches = 0
        self._worth: int | None = None

    def learn(self, rows: int, seconds: float) -> None:
        """A batch of `rows` rows took so long."""
        size = rows.bit_length()
        self._batches += 1
        for means, value in ((self._seconds, seconds), (self._row_s, seconds / max(rows, 1))):
            known = means.get(size)
            means[size] = value if known is None else known + (value - known) * _WEIGHT
        self._worth = self._find_worth()

    def batch_s(self, rows: int) -> float:
        """How long a batch of `rows` rows will take: as its size did, else the next smaller, else any larger."""
        if not self._seconds:
            return 0.0
        size = rows.bit_length()
        smaller = [each for each in self._seconds if each <= size]
        return self._seconds[max(smaller) if smaller else min(self._seconds)]

    def wait_s(self, rows: int, max_rows: int) -> float:
        """How long `rows` rows will take that wait, in batches as large as may be; `max_rows` 0: one by one."""
        batches, rest = divmod(rows, max(max_rows, 1))
        wait_s = batches * self.batch_s(max(max_rows, 1)) if batches else 0.0
        return wait_s + (self.batch_s(rest) if rest else 0.0)

    def rows_within(self, seconds: float, max_rows: int, least: int) -> int:
        """How many rows, at most `max_rows` and halved down to `least`, a batch may have to be done in `seconds`."""
        rows = max_rows
        while rows > least and self.batch_s(rows) > seconds:
            rows //= 2
        return max(rows, least)

    def rows_worth(self, max_rows: int) -> int:
        """How many rows, at most `max_rows`, a batch may have before more of them only make others wait.

        A power of two where it is fewer; all of them as long as no larger batch has shown that it gains nothing.
        """
        if self._worth is None:
            return max_rows
        return min(max_rows, self._worth if self._batches % _PROBE_EVERY else 2 * self._worth)

    def _find_worth(self) -> int | None:
        sizes = sorted(self._row_s)
        for size, larger in itertools.pairwise(sizes):
            row_s = self._row_s[size]
            if row_s > DEAR_ROW_S and self._row_s[larger] > row_s * (1 - LEAST_GAIN):
                return 1 << max(size - 1, 0)
        return None
