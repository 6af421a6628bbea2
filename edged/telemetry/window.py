"""What one telemetry window holds, and how two become one. Pure.

Every number is whole: merging is associative and exact, so that it does not matter which neighbours were merged when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from edged.telemetry.drift import index
from edged.telemetry.sketch import Sketch

SCHEMA = 1
"""The version of the messages; a consumer passes over fields that it does not know."""

_Kept = TypeVar("_Kept")
_Key = TypeVar("_Key")


class Gauge(msgspec.Struct, frozen=True):
    """A reading over a window."""

    count: int
    sum: int
    min: int
    max: int
    last: int

    def merged(self, later: Gauge) -> Gauge:
        """Both together; `later` is the later one."""
        return Gauge(
            self.count + later.count,
            self.sum + later.sum,
            min(self.min, later.min),
            max(self.max, later.max),
            later.last,
        )


class OutputDrift(msgspec.Struct, frozen=True, omit_defaults=True):
    """The results of one output, by the bins of its reference distribution."""

    output: str
    kind: str
    expected: tuple[float, ...]
    counts: tuple[int, ...]
    flagged: int = 0
    psi: float = 0.0
    """The population stability index of the counts against what was expected (`drift.index`)."""

    @classmethod
    def of(
        cls, output: str, kind: str, expected: tuple[float, ...], counts: tuple[int, ...], flagged: int
    ) -> OutputDrift:
        """With its index, which follows from the counts: merging keeps it exact."""
        return cls(output, kind, expected, counts, flagged, round(index(expected, counts), 4))

    def merged(self, later: OutputDrift) -> OutputDrift:
        """Both together; where the reference is another, it was another bundle's, and the later one stands."""
        if self.expected != later.expected:
            return later
        counts = tuple(one + other for one, other in zip(self.counts, later.counts, strict=True))
        return OutputDrift.of(self.output, self.kind, self.expected, counts, self.flagged + later.flagged)


class ModelWindow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One variant of one revision."""

    model: str
    revision: int
    variant: str
    codes: dict[str, int] = {}
    """Requests by what became of them: `ok`, or the code of the error."""
    rows: int = 0
    batches: int = 0
    batch_rows: dict[str, int] = {}
    """Batches by rows: the keys are the powers of two up to which they went."""
    queue: Sketch = Sketch()
    compute: Sketch = Sketch()
    last_success_ms: int = 0
    """Wall time in ms since 1970."""
    drift: list[OutputDrift] = []

    @property
    def key(self) -> tuple[str, int, str]:
        """What two of them must share to be merged."""
        return (self.model, self.revision, self.variant)

    def merged(self, later: ModelWindow) -> ModelWindow:
        """Both together."""
        return ModelWindow(
            *self.key,
            codes=added(self.codes, later.codes),
            rows=self.rows + later.rows,
            batches=self.batches + later.batches,
            batch_rows=added(self.batch_rows, later.batch_rows),
            queue=self.queue.merged(later.queue),
            compute=self.compute.merged(later.compute),
            last_success_ms=max(self.last_success_ms, later.last_success_ms),
            drift=joined(self.drift, later.drift, lambda each: (each.output, each.kind)),
        )


class ModelTotal(msgspec.Struct, frozen=True, omit_defaults=True):
    """One variant of one model, whatever its revision, since the spool was made."""

    model: str
    variant: str
    codes: dict[str, int] = {}
    rows: int = 0
    batches: int = 0

    def merged(self, later: ModelTotal) -> ModelTotal:
        """Both together."""
        return ModelTotal(
            self.model,
            self.variant,
            added(self.codes, later.codes),
            self.rows + later.rows,
            self.batches + later.batches,
        )


class Totals(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything counted since the spool was made. A broker that lost its store has cost resolution only."""

    models: list[ModelTotal] = []
    worker_restarts: int = 0
    levels_ms: dict[str, int] = {}

    def with_window(self, window: Window) -> Totals:
        """These, and what `window` counted."""
        counted = [ModelTotal(each.model, each.variant, each.codes, each.rows, each.batches) for each in window.models]
        return Totals(
            joined(self.models, counted, lambda each: (each.model, each.variant)),
            self.worker_restarts + window.worker_restarts,
            added(self.levels_ms, window.levels_ms),
        )


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened in a span of time. Which spool and which numbers it has, the spool says."""

    span_ms: int
    """How much time it covers, by the monotonic clock."""
    began_ms: int
    """Wall time in ms since 1970 when it was opened; windows are never ordered by it."""
    clock_synchronized: bool = False
    models: list[ModelWindow] = []
    readings: dict[str, Gauge] = {}
    levels_ms: dict[str, int] = {}
    """Time at each level."""
    worker_restarts: int = 0
    update_phases: dict[str, str] = {}
    """By model, the last: `<phase> <revision>`."""

    def without_zeros(self) -> Window:
        """As it is told: what is counted and was 0 all the time says nothing, and costs bytes each hour."""
        told = {name: gauge for name, gauge in self.readings.items() if gauge.min or gauge.max or not _counted(name)}
        return msgspec.structs.replace(self, readings=told)

    def merged(self, later: Window) -> Window:
        """Both together; `later` follows this one."""
        readings = dict(self.readings)
        for name, gauge in later.readings.items():
            readings[name] = readings[name].merged(gauge) if name in readings else gauge
        return Window(
            span_ms=self.span_ms + later.span_ms,
            began_ms=self.began_ms,
            clock_synchronized=self.clock_synchronized and later.clock_synchronized,
            models=joined(self.models, later.models, lambda each: each.key),
            readings=readings,
            levels_ms=added(self.levels_ms, later.levels_ms),
            worker_restarts=self.worker_restarts + later.worker_restarts,
            update_phases={**self.update_phases, **later.update_phases},
        )


def _counted(name: str) -> bool:
    return name.partition(":")[0].endswith(("_count", "_permille"))


def added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The sums by key."""
    found = dict(one)
    for key, count in other.items():
        found[key] = found.get(key, 0) + count
    return found


def joined(earlier: Iterable[_Kept], later: Iterable[_Kept], key: Callable[[_Kept], _Key]) -> list[_Kept]:
    """Both lists as one, ordered by `key`, those of the same key merged."""
    found: dict[Any, Any] = {key(each): each for each in earlier}
    for each in later:
        known = found.get(key(each))
        found[key(each)] = each if known is None else known.merged(each)
    return [found[name] for name in sorted(found)]


def merge(windows: Iterable[Window]) -> Window:
    """One window of several neighbours, the oldest first. Raises ValueError where there is none."""
    merged: Window | None = None
    for window in windows:
        merged = window if merged is None else merged.merged(window)
    if merged is None:
        raise ValueError("there is no window to merge")
    return merged
