"""The design's budgets, as far as one run can show them, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Protocol

import msgspec

from benchmarks.footprint import Footprint
from benchmarks.measure import Spread

MIB = 1024 * 1024


class Verdict(msgspec.Struct, frozen=True):
    """One budget."""

    what: str
    unit: str
    limit: float
    measured: float | None
    """None when there is nothing to measure."""
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """None when there was nothing to measure."""
        return None if self.measured is None else self.measured <= self.limit


def judge(found: Footprint) -> list[Verdict]:
    """Every budget that a footprint shows, always in the same order."""
    alone, crowd = found.held[0], found.held[-1]
    template = None if alone.template is None else alone.template.pss / MIB
    further = [worker.memory.private - worker.model_bytes for worker in crowd.workers[1:]]
    busiest = max(found.idle, key=lambda idle: idle.busiest_wakes_per_s)
    thread = f"thread {busiest.busiest} of {busiest.process}"
    return [
        Verdict("ready with one small model, median", "s", 1.0, median(found.ready_s)),
        Verdict("front, PSS, one model, nothing asked", "MiB", 70, alone.front.pss / MIB),
        Verdict("template, PSS", "MiB", 60, template),
        Verdict("a further worker, private, over its model, largest", "MiB", 8, max(further) / MIB),
        Verdict("idle, all processes, of one core", "%", 0.3, sum(idle.cpu_percent for idle in found.idle)),
        Verdict("idle, wakes of the busiest thread", "/s", 1, busiest.busiest_wakes_per_s, thread),
    ]


class Compared(Protocol):
    """What is judged of a row: see report.Line."""

    model: str
    load: str
    callers: int
    server: str
    cpu_us: Spread | None
    ratio: Spread | None


# What a request may cost, by model and callers, as so many times the bare echo.
_RATIOS = {("identity", 16): 1.2, ("identity", 1): 3.2}


def judge_rows(lines: Sequence[Compared], server: str) -> list[Verdict]:
    """What requests may cost, beside the floor of the same rounds."""
    found = []
    for line in lines:
        limit = _RATIOS.get((line.model, line.callers))
        if limit is not None and line.server == server:
            what = f"{line.model}, {line.callers} callers, {line.load}: CPU by that of the bare echo"
            found.append(Verdict(what, "×", limit, line.ratio.median if line.ratio else None))
    return found
