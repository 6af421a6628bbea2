"""Tells when the results of an output become, or cease to be, those of another population."""

from __future__ import annotations

from typing import TypeVar

from edged.events import EventLog, Severity
from edged.telemetry import drift
from edged.telemetry.drift import Verdict
from edged.telemetry.window import OutputDrift, Window

# Outputs of which something is remembered; beyond these the one that was heard of least lately goes.
_MOST = 1024

_Key = tuple[str, str, str]
_Known = TypeVar("_Known")


class DriftWatch:
    """Judges windows, several together where a quiet model has too few results in one."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._few: dict[_Key, OutputDrift] = {}
        """Results that say nothing yet."""
        self._verdicts: dict[_Key, Verdict] = {}

    def judge(self, window: Window) -> None:
        """Takes a window that has ended."""
        for model in window.models:
            for found in model.drift:
                self._judge((model.model, found.output, found.kind), found)

    def _judge(self, key: _Key, found: OutputDrift) -> None:
        few = self._few.pop(key, None)
        found = found if few is None else few.merged(found)
        verdict = drift.verdict(found.expected, found.counts)
        if verdict is Verdict.UNKNOWN:
            _keep(self._few, key, found)
            return
        before = self._verdicts.pop(key, Verdict.STEADY)
        _keep(self._verdicts, key, verdict)
        if verdict is before:
            return
        model, output, kind = key
        self._events.record(
            Severity.INFO if verdict is Verdict.STEADY else Severity.WARNING,
            "output_drift",
            model,
            f"the {kind} of output {output} are {verdict} against the reference, were {before}",
            index=round(drift.index(found.expected, found.counts), 3),
            results=sum(found.counts),
        )


def _keep(known: dict[_Key, _Known], key: _Key, value: _Known) -> None:
    known[key] = value
    if len(known) > _MOST:
        del known[next(iter(known))]
