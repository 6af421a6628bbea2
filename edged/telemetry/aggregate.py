"""Facts folded into the open window. Pure: whoever calls passes the time."""

from __future__ import annotations

from collections import Counter

from edged.facts import Executed, Fact, LevelEntered, OutputCounts, Reading, Unanswered, UpdatePhase, WorkerRestarted
from edged.telemetry.sketch import Tally
from edged.telemetry.window import Gauge, ModelWindow, OutputDrift, Window, joined
from edged.types import Level

OK = "ok"

# The daemon serves fewer variants of fewer models between two windows, and has fewer sensors. What goes beyond is
# counted under no name, so that a window stays small whatever happens.
MAX_VARIANTS = 256
MAX_READINGS = 64
OTHERS = ("", 0, "")


class _Variant:
    """One variant of one revision, still being counted."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.rows = 0
        self.batches = 0
        self.batch_rows: Counter[str] = Counter()
        self.queue = Tally()
        self.compute = Tally()
        self.last_success_ms = 0
        self.drift: list[OutputDrift] = []

    def executed(self, fact: Executed) -> None:
        count = len(fact.queue_s)
        self.codes[OK] += count
        self.rows += fact.rows
        self.batches += 1
        self.batch_rows[str(1 << max(fact.rows - 1, 0).bit_length())] += 1
        for queue_s in fact.queue_s:
            self.queue.add(queue_s)
        self.compute.add(fact.compute_s, count)
        self.last_success_ms = max(self.last_success_ms, fact.at_ms)

    def closed(self, key: tuple[str, int, str]) -> ModelWindow:
        return ModelWindow(
            *key,
            codes=dict(self.codes),
            rows=self.rows,
            batches=self.batches,
            batch_rows=dict(self.batch_rows),
            queue=self.queue.sketch(),
            compute=self.compute.sketch(),
            last_success_ms=self.last_success_ms,
            drift=self.drift,
        )


class Aggregate:
    """The open window."""

    def __init__(self, began_s: float, began_ms: int, level: Level = Level.NOMINAL) -> None:
        """`began_s` is monotonic, `began_ms` wall time in ms since 1970; `level` is the one that holds by then."""
        self._open(began_s, began_ms, level)

    def _open(self, began_s: float, began_ms: int, level: Level) -> None:
        self._began_s = began_s
        self._began_ms = began_ms
        self._variants: dict[tuple[str, int, str], _Variant] = {}
        self._readings: dict[str, Gauge] = {}
        self._level = level
        self._level_since_s = began_s
        self._levels_ms: Counter[str] = Counter()
        self._restarts = 0
        self._phases: dict[str, str] = {}

    def add(self, fact: Fact) -> None:
        """Folds one fact in."""
        match fact:
            case Executed():
                self._variant(fact.model, fact.revision, fact.variant).executed(fact)
            case Unanswered():
                self._variant(fact.model, fact.revision, fact.variant).codes[fact.code] += 1
            case Reading():
                self._read(fact)
            case LevelEntered():
                self._enter(fact.level, fact.at_s)
            case WorkerRestarted():
                self._restarts += 1
            case UpdatePhase():
                self._phases[fact.model] = f"{fact.phase} {fact.revision}"
            case OutputCounts():
                variant = self._variant(fact.model, fact.revision, fact.variant)
                found = OutputDrift.of(fact.output, fact.kind, fact.expected, fact.counts, fact.flagged)
                variant.drift = joined(variant.drift, [found], lambda each: (each.output, each.kind))

    def close(self, now_s: float, now_ms: int, *, clock_synchronized: bool) -> Window:
        """Ends the window and opens the next."""
        self._enter(self._level, now_s)
        window = Window(
            span_ms=max(round((now_s - self._began_s) * 1000), 0),
            began_ms=self._began_ms,
            clock_synchronized=clock_synchronized,
            models=[self._variants[key].closed(key) for key in sorted(self._variants)],
            readings=self._readings,
            levels_ms=dict(self._levels_ms),
            worker_restarts=self._restarts,
            update_phases=self._phases,
        )
        self._open(now_s, now_ms, self._level)
        return window

    def _variant(self, model: str, revision: int, variant: str) -> _Variant:
        key = (model, revision, variant)
        if key not in self._variants:
            if len(self._variants) >= MAX_VARIANTS:
                key = OTHERS
            self._variants.setdefault(key, _Variant())
        return self._variants[key]

    def _read(self, fact: Reading) -> None:
        known = self._readings.get(fact.name)
        if known is None and len(self._readings) >= MAX_READINGS:
            return
        gauge = Gauge(1, fact.value, fact.value, fact.value, fact.value)
        self._readings[fact.name] = gauge if known is None else known.merged(gauge)

    def _enter(self, level: Level, at_s: float) -> None:
        spent_ms = max(round((at_s - self._level_since_s) * 1000), 0)
        if spent_ms:
            self._levels_ms[self._level] += spent_ms
        self._level, self._level_since_s = level, at_s
