"""Keeps the governor's trace off the serving loop: a disk may take long to take it."""

from __future__ import annotations

import contextlib

from edged.events import EventLog, Severity
from edged.pressure.governor import Decision, Governor, State
from edged.pressure.reader import Reader
from edged.pressure.readings import Readings
from edged.pressure.trace import Recorder

# A disk that takes longer for a line has other work to do.
_SLOW_S = 5.0


class Tracing:
    """Of one recorder, which nobody else uses from then on."""

    def __init__(self, recorder: Recorder, events: EventLog) -> None:
        self._recorder = recorder
        self._events = events
        self._writer: Reader[None] = Reader()
        self._governor: Governor | None = None
        self._ended = False

    async def record(
        self, governor: Governor, before: State, now: float, readings: Readings, decision: Decision
    ) -> None:
        """Adds what `governor` decided; where that cannot be written the trace ends, and an event says so."""
        if self._ended:
            return
        try:
            await self._writer.read(lambda: self._write(governor, before, now, readings, decision), _SLOW_S)
        except OSError as error:  # TimeoutError is one
            self.close()
            text = f"the trace of the governor ends here: {str(error) or f'the disk took longer than {_SLOW_S:g} s'}"
            self._events.record(Severity.WARNING, "trace_ended", "pressure", text)

    def close(self) -> None:
        """Ends it."""
        self._ended = True
        self._writer.close(self._close)

    def _write(self, governor: Governor, before: State, now: float, readings: Readings, decision: Decision) -> None:
        if governor is not self._governor:
            self._governor = governor
            self._recorder.govern(governor)
        if decision.limits.journal_only:
            self._recorder.close()
        else:
            self._recorder.record(before, now, readings, decision)

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._recorder.close()
