"""Who is taken in, and who is turned away for whom."""

from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st
from support.standins import manifest, pending

from edged.serving import overload
from edged.serving.overload import FLAT_PART, FLAT_S, UNHURRIED_REQUESTS, Ahead, Bounds, Patience
from edged.serving.waiting import Waiting

OF = manifest(max_batch_size=1000)
REQUESTS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20)), max_size=30)


def request(level, rows=1):
    made = pending(Future(), rows, 1, of=OF)
    made.level = level
    return made


@given(REQUESTS, st.integers(1, 6), st.integers(1, 60))
def test_the_queue_never_grows_past_its_bounds(requests, most, size):
    waiting, bounds = Waiting(), Bounds(most, size)
    for level, rows in requests:
        made = request(level, rows)
        held = list(waiting)
        shed = overload.make_room(waiting, bounds, level, made.size)
        if shed is None:
            assert list(waiting) == held, "whoever is refused costs nobody their place"
            continue
        assert all(each.level > level for each in shed)
        assert {id(each) for each in held} == {id(each) for each in (*waiting, *shed)}
        waiting.add(made)
        assert waiting.count <= most
        assert waiting.size <= size or waiting.count == 1


@given(REQUESTS, st.integers(1, 6))
def test_nobody_is_refused_while_somebody_of_lower_priority_keeps_a_place(requests, most):
    waiting, bounds = Waiting(), Bounds(most, 10**6)
    for level, _ in requests:
        if overload.make_room(waiting, bounds, level, 4) is None:
            assert all(each.level <= level for each in waiting)
        else:
            waiting.add(request(level))


def test_the_newest_of_the_lowest_goes_first():
    waiting = Waiting()
    old, new, middle = request(3), request(3), request(2)
    for each in (old, middle, new):
        waiting.add(each)
    assert overload.make_room(waiting, Bounds(3, 10**6), 1, 4) == [new]
    assert overload.make_room(waiting, Bounds(2, 10**6), 1, 4) == [old]
    assert overload.make_room(waiting, Bounds(1, 10**6), 2, 4) is None


class TestTheWait:
    def why(self, count, wait_s, *, executing=0, left_s=60.0, delay_s=1e9, level=1, now=0.0, patience=None):
        ahead = Ahead(count, executing, wait_s)
        return (patience or Patience()).too_long(level, now, ahead, Bounds(100, 10**6, delay_s), left_s)

    def test_may_not_reach_the_deadline(self):
        assert self.why(4, 2.25, left_s=2.25).startswith("would begin with this request in")
        assert not self.why(4, 2.25, left_s=2.26)

    def test_is_never_too_long_where_nothing_goes_before(self):
        assert not self.why(0, 100.0, left_s=0.001, delay_s=0.1)

    def test_is_bounded_for_more_than_a_few_callers(self):
        few, more = UNHURRIED_REQUESTS - 1, UNHURRIED_REQUESTS
        assert not self.why(few, 1.0, delay_s=0.1)
        assert "at most 0.1 s may wait" in self.why(more, 1.0, delay_s=0.1)
        assert not self.why(more, 1.0, delay_s=1.0)
        assert self.why(few, 1.0, executing=1, delay_s=0.1)

    def test_is_shorter_for_a_while_once_somebody_was_turned_away(self):
        patience, part = Patience(), 1.0 / FLAT_PART
        assert not self.why(2, 0.9, delay_s=1.0, patience=patience)
        assert self.why(UNHURRIED_REQUESTS, 1.1, delay_s=1.0, level=2, now=10.0, patience=patience)
        for level in (2, 3):
            refused = self.why(2, part + 0.01, delay_s=1.0, level=level, now=20.0, patience=patience)
            assert f"at most {part:g} s may wait" in refused
            assert not self.why(2, part, delay_s=1.0, level=level, now=20.0, patience=patience)
            assert not self.why(0, 5.0, delay_s=1.0, level=level, now=20.0, patience=patience)
            assert not self.why(2, 0.9, delay_s=1.0, level=level, now=10.0 + FLAT_S, patience=patience)
        assert not self.why(2, 0.9, delay_s=1.0, level=1, now=20.0, patience=patience), "it is more urgent"

    def test_too_late_a_deadline_of_one_shortens_it_for_nobody(self):
        patience = Patience()
        assert self.why(4, 2.0, left_s=1.0, delay_s=1.0, patience=patience)
        assert not self.why(4, 2.0, delay_s=1.0, patience=patience)
