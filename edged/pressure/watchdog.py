"""Whether an accelerator is sound: it answers in time, it is there, its temperature makes sense. Pure.

The shell runs a heartbeat inference on it and says what came of it. A failed one is left alone, its models move to
their next variant, and it is tried again on a schedule, with a reset where the driver offers one.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

# One heartbeat may be late when the device is busy; two in a row are not.
_FAULTS = 2
_FIRST_RETRY_S, _LAST_RETRY_S = 30.0, 3600.0
# One that is reset, or plugged in anew, is back before it was tried again so often, which takes some minutes.
_GONE_RETRIES = 3
_GONE = "its device node is gone"


class Action(StrEnum):
    """What the shell is to do now."""

    NOTHING = "nothing"
    FAIL = "fail"
    """Move its models to their next variant, and report it."""
    RETRY = "retry"
    """Reset it where that is offered, then run a heartbeat."""
    RECOVER = "recover"
    """It works again: its models may return."""


class Beat(msgspec.Struct, frozen=True):
    """One look at an accelerator."""

    present: bool = True
    """Its device node is there."""
    answered_s: float | None = None
    """How long the heartbeat took; None: it failed, or was given up."""
    deadline_s: float = 5.0
    refused: str = ""
    """The error that it was answered with, where there was none before; empty: none."""
    failure: str = ""
    """Why no worker could answer it, where that was no want of time; empty: none."""
    doubt: str = ""
    """Why its temperature makes no sense; empty when it does, or where it has none."""

    @property
    def is_well(self) -> bool:
        """Whether the heartbeat was answered, well and in time."""
        return self.answered_s is not None and self.answered_s <= self.deadline_s and not self.refused


class Watched(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of one accelerator."""

    faults: int = 0
    """In a row."""
    failed: str = ""
    """Why it counts as failed; empty while it does not."""
    retries: int = 0
    retry_at: float = 0.0


def step(watched: Watched, beat: Beat, now: float) -> tuple[Watched, Action]:
    """After one look at `now`, monotonic seconds."""
    fault = _fault(beat)
    if not fault:
        return Watched(), Action.RECOVER if watched.failed else Action.NOTHING
    if watched.failed:  # this was a retry, and it failed too
        retries = watched.retries + 1
        return Watched(watched.faults + 1, fault, retries, now + _delay_s(retries)), Action.NOTHING
    faults = watched.faults + 1
    if faults < _FAULTS and beat.present:
        return Watched(faults), Action.NOTHING
    return Watched(faults, fault, 0, now + _FIRST_RETRY_S), Action.FAIL


def put_off(watched: Watched, now: float) -> Watched:
    """After a retry that could not be made: it says nothing, and is made after as long again."""
    return msgspec.structs.replace(watched, retry_at=now + _delay_s(watched.retries))


def is_gone(watched: Watched) -> bool:
    """Whether its device node has been away for so long that nothing waits for it any more."""
    return watched.failed == _GONE and watched.retries >= _GONE_RETRIES


def due(watched: Watched, now: float) -> Action:
    """Whether a failed accelerator is to be tried again now; a sound one is looked at when the shell likes."""
    return Action.RETRY if watched.failed and now >= watched.retry_at else Action.NOTHING


def _delay_s(retries: int) -> float:
    return min(_FIRST_RETRY_S * 2.0 ** min(retries, 16), _LAST_RETRY_S)


def _fault(beat: Beat) -> str:
    if not beat.present:
        return _GONE
    if beat.refused:
        return f"it answered a heartbeat with an error: {beat.refused}"
    if beat.failure:
        return f"no worker could answer a heartbeat: {beat.failure}"
    if beat.answered_s is None:
        return f"it did not answer a heartbeat within {beat.deadline_s:g} s"
    if beat.answered_s > beat.deadline_s:
        return f"it took {beat.answered_s:.1f} s for a heartbeat, {beat.deadline_s:g} s are allowed"
    return f"its temperature makes no sense: {beat.doubt}" if beat.doubt else ""
