"""What was fetched today, for links that are paid by the byte. Pure."""

from __future__ import annotations

import msgspec


class Spending(msgspec.Struct):
    """Bytes fetched on one day. A clock that jumps begins a new day, at worst."""

    day: str = ""
    received: int = 0

    def count(self, more: int, day: str) -> None:
        """Takes what a fetcher has received since it was last counted."""
        if day != self.day:
            self.day, self.received = day, 0
        self.received += more

    def left(self, budget: int, day: str) -> int:
        """How much of a day's budget is left."""
        return max(0, budget - self.received) if day == self.day else budget
