"""How a level follows what is wanted of it: up at once, down after the dwell time, never to and fro. Pure."""

from __future__ import annotations

import msgspec

from edged.types import Level

ORDER = tuple(Level)
"""From the mildest to the hardest."""

NEVER = -1e12
"""A time so long ago that it does not count; infinity cannot be written to a trace."""


def severity(level: Level) -> int:
    """0 for nominal."""
    return ORDER.index(level)


def hardest(*levels: Level) -> Level:
    """The hardest of them; nominal where there are none."""
    return max(levels, key=severity, default=Level.NOMINAL)


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """The level of one resource."""

    level: Level = Level.NOMINAL
    changed_at: float = NEVER
    wanted_at: tuple[float, float, float] = (NEVER, NEVER, NEVER)
    """When each level above nominal, or a harder one, was last wanted."""
    held_at: tuple[float, float, float] = (NEVER, NEVER, NEVER)
    """When each of them, or a harder one, was last held."""


def follow(held: Held, wanted: Level, now: float, dwell_s: float) -> Held:
    """The level after `wanted` was wanted at `now`.

    It goes to what is wanted now, or stays. It rises at once to a level harder than any held in the last `dwell_s`; to
    one that was held then, only when `dwell_s` has passed since the last change. It falls when nothing harder was
    wanted for `dwell_s`: to a milder level that is wanted still, else once and all the way. So whatever the input does
    changes the level at most once in `dwell_s`, but for a new danger, which is never waited for; and everything is back
    `dwell_s` after it was last needed.
    """
    wanted_at = _mark(held.wanted_at, wanted, now)
    held_at = _mark(held.held_at, held.level, now)
    if severity(wanted) > severity(held.level):
        settled = now - held.changed_at >= dwell_s
        moves = settled or severity(wanted) > severity(_newest(held_at, now, dwell_s))
    else:
        moves = wanted is _newest(wanted_at, now, dwell_s)
    level = wanted if moves else held.level
    changed_at = held.changed_at if level is held.level else now
    return Held(level, changed_at, wanted_at, _mark(held_at, level, now))


def _mark(times: tuple[float, float, float], level: Level, now: float) -> tuple[float, float, float]:
    one, two, three = (now if number < severity(level) else time for number, time in enumerate(times))
    return one, two, three


def _newest(times: tuple[float, float, float], now: float, dwell_s: float) -> Level:
    return ORDER[sum(now - time < dwell_s for time in times)]
