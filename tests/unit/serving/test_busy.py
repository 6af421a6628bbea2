"""How long inferences have run."""

from hypothesis import given
from hypothesis import strategies as st

from edged.serving.busy import Busy

S = 10**9


def test_what_runs_at_the_same_time_counts_once():
    busy = Busy()
    busy.begin(0)
    busy.begin(1 * S)
    busy.end(2 * S)
    assert busy.seconds(3 * S) == 3, "what still runs counts"
    busy.end(4 * S)
    assert busy.seconds(10 * S) == 4
    busy.begin(20 * S)
    busy.end(21 * S)
    assert busy.seconds(30 * S) == 5


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), max_size=20))
def test_it_is_never_more_than_the_time_that_passed(spans):
    busy = Busy()
    moments = sorted([(min(span), True) for span in spans] + [(max(span), False) for span in spans], key=lambda m: m[0])
    running = 0
    for at, begins in sorted(moments, key=lambda moment: (moment[0], not moment[1])):
        running += 1 if begins else -1
        assert running >= 0
        (busy.begin if begins else busy.end)(at)
    assert 0 <= busy.seconds(10**12) <= 1000
