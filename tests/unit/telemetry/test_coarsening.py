"""Which windows become one: the oldest neighbours, never one that was handed out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.telemetry.coarsening import DAY_MS, HOUR_MS, SPANS_MS, Row, pair_to_merge, run_to_merge

FIVE_MINUTES_MS = 300_000


def rows(*kinds: tuple[int, int, bool]) -> list[Row]:
    return [Row(number, *kind) for number, kind in enumerate(kinds, 1)]


def fine(count: int, *, sent: bool = False) -> list[tuple[int, int, bool]]:
    return [(0, FIVE_MINUTES_MS, sent)] * count


def test_twelve_windows_make_an_hour():
    assert [row.last for row in run_to_merge(rows(*fine(30)), 0)] == list(range(1, 13))


def test_a_day_is_made_of_hours():
    hours = [(1, HOUR_MS, False)] * 30
    assert sum(row.span_ms for row in run_to_merge(rows(*hours), 1)) == DAY_MS


def test_what_was_handed_out_stays_and_parts_its_neighbours():
    found = rows(*fine(2, sent=True), *fine(3), *fine(1, sent=True), *fine(4))
    assert [row.last for row in run_to_merge(found, 0)] == [3, 4, 5]


def test_one_alone_is_nothing_to_merge():
    assert run_to_merge(rows((1, HOUR_MS, False), *fine(1), (1, HOUR_MS, False)), 0) == []
    assert pair_to_merge(rows(*fine(1))) == []
    assert pair_to_merge(rows(*fine(1), *fine(1, sent=True), *fine(1))) == []


anything = st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, DAY_MS), st.booleans()), max_size=80).map(
    lambda kinds: rows(*kinds)
)


@given(anything, st.sampled_from([0, 1]))
def test_a_run_is_of_neighbours_that_may_change_and_fill_no_more_than_their_grade(found, grade):
    run = run_to_merge(found, grade)
    assert all(row.grade == grade and not row.sent for row in run)
    if run:
        assert [row.last for row in run] == list(range(run[0].last, run[-1].last + 1))
        assert sum(row.span_ms for row in run) <= max(SPANS_MS[grade], run[0].span_ms)


@given(anything)
def test_a_pair_is_of_neighbours_that_may_change(found):
    pair = pair_to_merge(found)
    assert len(pair) in (0, 2)
    if pair:
        assert pair[1].last == pair[0].last + 1
        assert not pair[0].sent
        assert not pair[1].sent
