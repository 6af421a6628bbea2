"""When a worker that died is started again. Pure."""

from __future__ import annotations

# So many deaths in a row, with no answer between, are no accident any more.
LOOP_DEATHS = 5


def delay_s(deaths: int, least_s: float, longest_s: float) -> float:
    """How long to wait after `deaths` in a row: not at all after the first, then ever longer."""
    if deaths <= 1:
        return 0.0
    return float(min(least_s * 2.0 ** min(deaths - 2, 30), longest_s))


def is_loop(deaths: int) -> bool:
    """Whether the variant is at fault."""
    return deaths >= LOOP_DEATHS
