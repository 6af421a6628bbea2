"""What was fetched today, for links that are paid by the byte. Pure."""

from __future__ import annotations

import msgspec


class Spending(msgspec.Struct):
    """Bytes fetched on one day. A clock that jumps begins a new day, at worst."""

    day: str = ""
    received: int = 0
    run: int = 0
    """Of the fetcher that runs now, as it counts."""

    def count(self, received: int, *, begins: bool, day: str) -> None:
        """Takes what a fetcher has received since it began; `begins`: it is another one than before."""
        if day != self.day:
            self.day, self.received = day, 0
        before = 0 if begins else min(self.run, received)
        self.received += received - before
        self.run = received

    def left(self, budget: int, day: str) -> int:
        """How much of a day's budget is left."""
        return max(0, budget - self.received) if day == self.day else budget
