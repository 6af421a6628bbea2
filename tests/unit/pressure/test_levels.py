"""How levels follow what is wanted of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from edged.pressure.levels import NEVER, ORDER, Held, follow, hardest, severity
from edged.types import Level

DWELL_S = 60.0


def run(wanted: Iterable[Level], every_s: float = 1.0) -> list[tuple[float, Level]]:
    """The level after each step."""
    held = Held()
    found = []
    for number, each in enumerate(wanted):
        held = follow(held, each, number * every_s, DWELL_S)
        found.append((number * every_s, held.level))
    return found


def changes(levels: list[tuple[float, Level]]) -> list[tuple[float, Level, Level]]:
    return [(at, before, after) for (_, before), (at, after) in itertools.pairwise(levels) if before is not after]


@settings(max_examples=12)
@given(st.lists(st.booleans(), min_size=3600, max_size=3600))
def test_an_input_that_flaps_at_a_threshold_for_an_hour_changes_the_level_once_in_a_dwell_time(flaps: list[bool]):
    times = [at for at, _, _ in changes(run(ORDER[each] for each in flaps))]
    assert all(after - before >= DWELL_S for before, after in itertools.pairwise(times))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(ORDER), st.integers(1, 80)), max_size=12), st.sampled_from([0.2, 1.0, 7.0]))
def test_whatever_comes_only_a_new_danger_changes_a_level_sooner(wanted: list[tuple[Level, int]], every_s: float):
    levels = run([level for level, times in wanted for _ in range(times)], every_s)
    for (earlier, _, _), (at, before, after) in itertools.pairwise(changes(levels)):
        if at - earlier < DWELL_S:
            recent = [level for time, level in levels if at - DWELL_S < time < at]
            assert severity(after) > max(map(severity, recent)), f"{before} to {after} at {at}"


@settings(max_examples=40)
@given(st.lists(st.sampled_from(ORDER), max_size=300))
def test_no_level_is_held_that_was_not_wanted_in_the_dwell_time_nor_is_a_new_one_waited_for(wanted: list[Level]):
    for number, (_, level) in enumerate(run(wanted)):
        recent = wanted[max(number - int(2 * DWELL_S), 0) : number + 1]
        assert severity(level) <= max(map(severity, recent))
        if severity(wanted[number]) > max(map(severity, wanted[:number]), default=0):
            assert level is wanted[number]


def test_a_level_falls_when_it_has_been_better_for_the_dwell_time_and_all_the_way():
    levels = run([Level.CRITICAL] * 10 + [Level.NOMINAL] * 100)
    assert changes([(-1.0, Level.NOMINAL), *levels]) == [
        (0.0, Level.NOMINAL, Level.CRITICAL),
        (9.0 + DWELL_S, Level.CRITICAL, Level.NOMINAL),
    ]


def test_everything_is_back_the_dwell_time_after_it_was_last_needed_in_one_step():
    levels = run([Level.CRITICAL] * 10 + [Level.ELEVATED] * 5 + [Level.NOMINAL] * 100)
    assert changes(levels) == [(14 + DWELL_S, Level.CRITICAL, Level.NOMINAL)]


def test_it_falls_to_a_milder_level_that_is_needed_still():
    levels = run([Level.CRITICAL] * 10 + [Level.ELEVATED] * 90 + [Level.NOMINAL] * 100)
    assert changes(levels) == [
        (9 + DWELL_S, Level.CRITICAL, Level.ELEVATED),
        (99 + DWELL_S, Level.ELEVATED, Level.NOMINAL),
    ]


def test_a_rise_that_had_to_wait_does_not_come_when_it_is_wanted_no_more():
    levels = run([Level.ELEVATED] + [Level.NOMINAL] * 60 + [Level.ELEVATED] + [Level.NOMINAL] * 100)
    assert changes(levels) == [(DWELL_S, Level.ELEVATED, Level.NOMINAL)]


def test_the_hardest_of_none_is_nominal():
    assert hardest() is Level.NOMINAL
    assert hardest(Level.ELEVATED, Level.EMERGENCY, Level.CRITICAL) is Level.EMERGENCY


def test_never_is_long_ago():
    assert follow(Held(), Level.NOMINAL, 0.0, DWELL_S).level is Level.NOMINAL
    assert NEVER < -1e9
