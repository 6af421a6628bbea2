"""What a subscriber got of one device's spool, held against all that is promised of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

Counts = Counter[tuple[str, str, str]]
"""Requests by model, variant and code."""


def counts(models: Iterable[dict[str, Any]]) -> Counts:
    """Those of a window's models, or of its totals'."""
    found: Counts = Counter()
    for model in models:
        for code, count in model.get("codes", {}).items():
            found[model["model"], model["variant"], code] += count
    return found


class Deliveries:
    """Takes every window and event as it comes, duplicates as well, and remembers what should not have been."""

    def __init__(self) -> None:
        self.duplicates = 0
        self.problems: list[str] = []
        self._rows: dict[tuple[int, int], tuple[str, dict[str, Any]]] = {}
        self._of_number: dict[tuple[int, int], int] = {}
        self._newest: dict[str, tuple[int, int]] = {}

    def take(self, kind: str, message: dict[str, Any]) -> None:
        """A message of …/telemetry or …/event, as it arrived."""
        epoch, first, last = message["epoch"], message["first"], message["last"]
        content = {name: message[name] for name in ("first", "window", "totals", "event") if name in message}
        if known := self._rows.get((epoch, last)):
            self.duplicates += 1
            if known != (kind, content):
                self.problems.append(f"row {epoch}/{last} changed after it was sent: {known} became {content}")
            return
        for number in range(first, last + 1):
            if (epoch, number) in self._of_number:
                other = self._of_number[epoch, number]
                self.problems.append(f"number {number} is in row {first}..{last}, and was sent in row ..{other} before")
            self._of_number[epoch, number] = last
        if (epoch, last) < self._newest.get(kind, (0, 0)):
            self.problems.append(f"{kind} {epoch}/{last} came after {self._newest[kind]}")
        self._newest[kind] = max((epoch, last), self._newest.get(kind, (0, 0)))
        self._rows[epoch, last] = kind, content

    def __len__(self) -> int:
        """Windows and events, each once."""
        return len(self._rows)

    @property
    def windows(self) -> list[tuple[tuple[int, int], dict[str, Any]]]:
        """Each once, in the order that its numbers say."""
        return [(key, content) for key, (kind, content) in sorted(self._rows.items()) if kind == "telemetry"]

    @property
    def epochs(self) -> set[int]:
        """Of all that came."""
        return {epoch for epoch, _ in self._rows}

    def counted(self) -> Counts:
        """The sum over the windows that came."""
        found: Counts = Counter()
        for _, content in self.windows:
            found += counts(content["window"].get("models", ()))
        return found

    def totals(self) -> Counts:
        """What the newest window of each epoch says of everything."""
        newest = {epoch: content for (epoch, _), content in self.windows}
        found: Counts = Counter()
        for content in newest.values():
            found += counts(content["totals"].get("models", ()))
        return found

    def check(self) -> None:
        """Nothing came that should not have; what the totals grew by is what the windows counted, and what is missing
        between them."""
        assert not self.problems, self.problems
        for epoch in self.epochs:
            of_epoch = [(number, content) for (each, number), content in self.windows if each == epoch]
            start = (0, {"totals": {}})
            for (before, earlier), (number, later) in pairwise([start, *of_epoch]):
                grown = counts(later["totals"].get("models", ()))
                grown.subtract(counts(earlier["totals"].get("models", ())))
                grown.subtract(counts(later["window"].get("models", ())))
                whole = all((epoch, each) in self._of_number for each in range(before + 1, later["first"]))
                assert min(grown.values(), default=0) >= 0, (epoch, number, grown)
                assert not whole or not +grown, ("nothing is missing here, and yet the totals tell of more", number)
