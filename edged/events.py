"""What the daemon decided or noticed: kept for a while for whoever asks, and logged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum

import msgspec

from edged import clock, log


class Severity(StrEnum):
    """How much an event matters to the person who reads it."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Event(msgspec.Struct, frozen=True):
    """One thing that happened. `code` is a stable word; `subject` names the model or part it happened to."""

    sequence: int
    at: datetime
    severity: Severity
    code: str
    subject: str
    message: str
    details: dict[str, str]


class EventLog:
    """The newest events, at most `kept` of them, numbered from 1 since the daemon's start."""

    def __init__(self, kept: int) -> None:
        self._events: deque[Event] = deque(maxlen=kept)
        self._sequence = 0
        self._listeners: list[Callable[[Event], None]] = []
        self._log = log.get("events")

    def record(self, severity: Severity, code: str, subject: str, message: str, **details: object) -> None:
        """Keeps an event and logs it."""
        self._sequence += 1
        message, subject = _text(message), _text(subject)
        texts = {key: _text(value) for key, value in details.items()}
        event = Event(self._sequence, clock.wall(), severity, code, subject, message, texts)
        self._events.append(event)
        getattr(self._log, severity)(message, code=code, subject=subject, **texts)
        for listener in self._listeners:
            listener(event)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Tells `listener` of each event from now on."""
        self._listeners.append(listener)

    def after(self, sequence: int, limit: int = 0) -> list[Event]:
        """Events numbered above `sequence`, oldest first; with a limit, the newest `limit` of them."""
        found = [event for event in self._events if event.sequence > sequence]
        return found[-limit:] if limit else found


def _text(value: object) -> str:
    """As text that can be sent: a file's name need not be any."""
    return str(value).encode(errors="replace").decode()
