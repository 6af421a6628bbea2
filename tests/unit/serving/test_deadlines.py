"""Deadlines of many requests in one heap: told once, in time, and kept no longer than needed."""

from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st
from support.standins import manifest, pending

from edged.serving.deadlines import Deadlines

OF = manifest()


def request(deadline):
    return pending(Future(), deadline=deadline, of=OF)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30), st.integers(0, 9))
def test_exactly_what_is_open_and_due_is_told(requests, now):
    deadlines = Deadlines()
    every = [(request(deadline), over) for deadline, over in requests]
    for made, _ in every:
        deadlines.add(made)
    for made, over in every:
        if over:
            deadlines.remove(made)
    wanted = [made for made, over in every if not over and made.deadline <= now]
    found = deadlines.due(now)
    assert sorted(map(id, found)) == sorted(map(id, wanted))
    assert [made.deadline for made in found] == sorted(made.deadline for made in found)
    assert deadlines.due(now) == []
    assert len(deadlines) == sum(not over for _, over in requests) - len(found)


def test_it_says_when_the_next_one_comes_first():
    deadlines = Deadlines()
    assert [deadlines.add(request(at)) for at in (5, 7, 3, 3)] == [True, False, True, False]
    assert deadlines.next == 3


def test_the_soonest_is_of_those_that_are_not_over():
    deadlines = Deadlines()
    made = [request(at) for at in (5, 3, 4)]
    for each in made:
        deadlines.add(each)
    assert deadlines.soonest() is made[1]
    deadlines.remove(made[1])
    assert deadlines.soonest() is made[2]
    for each in made:
        deadlines.remove(each)
    assert deadlines.soonest() is None


def test_what_is_over_is_kept_by_no_long_deadline():
    deadlines = Deadlines()
    deadlines.add(request(10.0))
    for _ in range(10_000):
        made = request(60.0)
        deadlines.add(made)
        deadlines.remove(made)
    assert len(deadlines) == 1
    assert len(deadlines._heap) < 200
