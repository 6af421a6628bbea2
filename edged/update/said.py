"""What stages, courses and the agent say to each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from edged.update.fetcher import Origin
from edged.update.machine import Event, Happened, Phase, State
from edged.update.reasons import Reason


class Awaits(StrEnum):
    """What has an update go on that was deferred."""

    PRESSURE = "pressure"
    """The end of what pauses its phase."""
    GATE = "gate"
    """The route may flip."""
    TIME = "time"
    """It is tried again after a while, longer each time."""


class Said(msgspec.Struct, frozen=True):
    """What came of a stage, on what evidence, and by which variant where one failed."""

    happened: Happened
    evidence: Mapping[str, Any] = {}
    variant: str = ""
    awaits: Awaits | None = None
    """With DEFERRED."""


def said(event: Event, text: str = "", reason: Reason | None = None, **evidence: Any) -> Said:
    """An event without a target."""
    return Said(Happened(event, text, reason), evidence)


def deferred(text: str, awaits: Awaits) -> Said:
    """Nothing goes on until what it awaits."""
    return Said(Happened(Event.DEFERRED, text), awaits=awaits)


class Terms(Protocol):
    """What the agent says to a course."""

    def gate(self, model: str) -> str:
        """Why the route of a model may not flip now; nothing when it may."""

    def paused(self, phase: Phase) -> str:
        """Why nothing is done in a phase now; nothing when it is."""

    def origin(self) -> Origin:
        """The repository to be asked now."""

    def told(self, facts: Mapping[str, Any]) -> None:
        """Takes what the fetcher tells."""


Stage = Callable[[State], Awaitable[Said]]
