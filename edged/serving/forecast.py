"""How long a request will have to wait, judged by how long batches took lately. Pure."""

from __future__ import annotations

# Weight of the newest batch in a moving mean: of the last eight batches or so.
_WEIGHT = 1 / 8


class Forecast:
    """Moving means of how long batches take, by the power of two that their rows come to.

    It errs on the side of taking a request in: a batch larger than any seen is taken to last as long as the largest
    that was, and before anything was seen nothing takes any time.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, rows: int, seconds: float) -> None:
        """A batch of `rows` rows took so long."""
        size = rows.bit_length()
        known = self._seconds.get(size)
        self._seconds[size] = seconds if known is None else known + (seconds - known) * _WEIGHT

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
