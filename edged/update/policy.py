"""Decides what a model's update should do next. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edged.update.environment import Environment
from edged.update.machine import WORK, Phase, State
from edged.update.records import Pin, Quarantined

# Fetching is begun again so often in a row, later each time, before it waits for the next poll.
FETCH_ATTEMPTS = 5
_FETCH_DELAY_S = 2.0
_FETCH_LONGEST_S = 300.0

# What is fetched and not what was signed is fetched once more.
REFETCHES = 1

# A phase that the daemon did not survive so often is what it does not survive; one that has lasted so long is not.
STARTS = {Phase.TRIAL: 3, Phase.SHADOW: 3, Phase.SOAKING: 5}
SURVIVED_S = 600.0


class Wish(msgspec.Struct, frozen=True):
    """What somebody wants of a model: the plan, or this device's own administrator."""

    revision: int
    cause: str
    allow_unproven: bool = True
    least_soak_s: float = 0.0


class Decision(msgspec.Struct, frozen=True):
    """What follows: the revision to go for (0: none), whether what is under way ends, and why in words."""

    go_for: int = 0
    give_up: bool = False
    why: str = ""
    refused: bool = False
    """Whether this device does not take what is wanted, however long it waits."""


def wish(plan: Wish | None, pin: Pin | None) -> Wish | None:
    """The local override before the plan; None where nobody wants anything."""
    return Wish(pin.revision, pin.cause) if pin is not None else plan


def decide(
    state: State,
    wanted: Wish | None,
    floor: int,
    quarantined: Iterable[Quarantined],
    environment: Environment,
    *,
    planned: bool,
) -> Decision:
    """What to do about a model, given where it stands and what is wanted.

    `planned`: there is a plan; else what one said before may still hold. What serves already is judged to its end.
    """
    busy = state.phase in WORK
    unproven = busy and state.phase is not Phase.SOAKING
    if wanted is None:
        give_up = unproven and planned if state.cause == "plan" else busy
        return Decision(give_up=give_up, why="nobody wants a revision")
    revision = wanted.revision
    aim = state.target if busy else state.serving
    too_old = f"revision {revision} lies below {floor}, the least that is signed as allowed" if revision < floor else ""
    if aim is not None and aim.revision == revision:
        if too_old and unproven:  # the floor has been raised since
            return Decision(give_up=True, why=too_old, refused=True)
        return Decision(why=f"revision {revision} {'is under way' if busy else 'serves'}")
    give_up = busy
    if state.serving is not None and state.serving.revision == revision:
        return Decision(give_up=give_up, why=f"revision {revision} serves")
    if state.phase is Phase.SOAKING and state.previous is not None and state.previous.revision == revision:
        return Decision(give_up=give_up, why=f"revision {revision} served before, and is gone back to")
    if too_old:
        return Decision(give_up=unproven, why=too_old, refused=True)
    for found in quarantined:
        if (found.model, found.revision) == (state.model, revision) and environment.holds(found):
            why = f"revision {revision} is quarantined: {found.reason}: {found.text}"
            return Decision(give_up=give_up, why=why, refused=True)
    return Decision(go_for=revision, give_up=give_up, why=f"the {wanted.cause} wants revision {revision}")


def crash_loop(state: State) -> str:
    """Why what is under way is not begun again at a start; empty where it may be."""
    if state.stopped or state.attempts < STARTS.get(state.phase, state.attempts + 1):
        return ""
    return f"edged ended {state.attempts} times while it was {state.phase}"


def fetch_delay_s(attempts: int, share: float) -> float:
    """How long to wait before fetching is begun again; `share`, 0 to 1, spreads a fleet."""
    longest = min(_FETCH_DELAY_S * 2.0 ** min(attempts, 20), _FETCH_LONGEST_S)
    return longest * (0.5 + share / 2)


def poll_delay_s(poll_s: float, share: float) -> float:
    """How long until the next poll: within a tenth of the period."""
    return poll_s * (0.9 + 0.2 * share)


def in_window(window: str, now: str) -> bool:
    """Whether a time `HH:MM` lies in a window `HH:MM-HH:MM`, which may go over midnight; none: always."""
    first, _, last = window.partition("-")
    if not window or first == last:
        return True
    return first <= now < last if first < last else now >= first or now < last
