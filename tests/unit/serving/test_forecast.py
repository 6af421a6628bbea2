"""How long batches will take, from how long they took."""

from hypothesis import given
from hypothesis import strategies as st

from edged.serving.forecast import DEAR_ROW_S, Forecast

SEEN = st.lists(st.tuples(st.integers(0, 70), st.floats(0.001, 10)), max_size=20)


def forecast(seen):
    made = Forecast()
    for rows, seconds in seen:
        made.learn(rows, seconds)
    return made


def test_before_anything_was_seen_nothing_takes_time():
    assert forecast([]).wait_s(1000, 8) == 0


@given(SEEN, st.integers(0, 100), st.integers(0, 100))
def test_it_stays_within_what_was_seen(seen, rows, max_rows):
    made = forecast(seen)
    if seen:
        seconds = [each for _, each in seen]
        assert min(seconds) * 0.999 <= made.batch_s(rows) <= max(seconds) * 1.001
    assert (made.wait_s(rows, max_rows) == 0) == (not rows or not seen)


def test_a_size_goes_by_its_own_then_by_a_smaller_one():
    made = forecast([(1, 1.0), (8, 5.0)])
    assert [made.batch_s(rows) for rows in (1, 2, 7, 8, 64)] == [1.0, 1.0, 1.0, 5.0, 5.0]


def test_it_follows_what_changes():
    made = forecast([(1, 10.0), *[(1, 1.0)] * 40])
    assert 1.0 <= made.batch_s(1) < 1.1


def test_what_waits_goes_in_full_batches_and_a_rest():
    made = forecast([(1, 1.0), (4, 2.0)])
    assert made.wait_s(9, 4) == 2 * 2.0 + 1.0
    assert made.wait_s(3, 0) == 3.0


def test_a_batch_is_made_small_enough_for_its_time():
    made = forecast([(1, 1.0), (2, 2.0), (4, 4.0), (8, 8.0)])
    assert [made.rows_within(seconds, 8, 1) for seconds in (9, 7, 3, 0.5)] == [8, 4, 2, 1]
    assert made.rows_within(0.5, 8, 3) == 3


class TestWhatABatchIsWorth:
    def test_where_rows_are_dear_and_more_of_them_gain_nothing_it_grows_no_further(self):
        assert forecast([(1, 0.012), (8, 0.094)]).rows_worth(8) == 1
        assert forecast([(1, 0.012), (2, 0.016), (4, 0.032)]).rows_worth(8) == 2

    def test_what_gains_or_costs_little_or_was_not_seen_larger_may_be_as_large_as_ever(self):
        assert forecast([(1, 0.012), (2, 0.016), (4, 0.024), (8, 0.036)]).rows_worth(8) == 8
        assert forecast([(1, DEAR_ROW_S), (8, 8 * DEAR_ROW_S)]).rows_worth(8) == 8
        assert forecast([(1, 0.012)]).rows_worth(8) == 8
        assert forecast([]).rows_worth(0) == 0

    @given(SEEN, st.integers(0, 100))
    def test_it_is_never_more_than_may_be_nor_nothing(self, seen, max_rows):
        assert min(max_rows, 1) <= forecast(seen).rows_worth(max_rows) <= max_rows

    def test_one_larger_batch_in_a_while_shows_when_that_has_changed(self):
        made = forecast([(1, 0.012), (2, 0.024)])
        worth = []
        for _ in range(4000):
            worth.append(made.rows_worth(8))
            made.learn(worth[-1], 0.012)  # since a change of clock, say, any batch takes as long as one row
        assert 0 < worth.index(8) < 4000
        assert worth[-1] == 8
