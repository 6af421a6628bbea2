"""Recent durations: near the true ones, bounded, and gone when they are old."""

import math

from hypothesis import given
from hypothesis import strategies as st

from edged.serving.latency import WINDOW_NS, Recent

DURATIONS = st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=50)


@given(DURATIONS, st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_within_a_sixteenth_of_the_true_one(durations, share):
    recent = Recent()
    for each in durations:
        recent.add(each, 0)
    (found,) = recent.quantiles(0, share)
    true = sorted(durations)[max(math.ceil(share * len(durations)), 1) - 1]
    assert abs(found - true) <= true / 16


@given(st.integers())
def test_no_duration_is_out_of_range(duration):
    recent = Recent()
    recent.add(duration, 0)
    assert recent.quantiles(0, 0.5)[0] >= 0


def test_where_there_is_nothing_it_is_zero():
    assert Recent().quantiles(123, 0.5, 0.99) == (0, 0)


def test_what_is_old_is_gone():
    recent = Recent()
    recent.add(1000, 0)
    assert recent.quantiles(WINDOW_NS, 0.5) != (0,)
    recent.add(10, WINDOW_NS)
    assert recent.quantiles(2 * WINDOW_NS, 1.0) == (10,)
    assert recent.quantiles(4 * WINDOW_NS, 1.0) == (0,)
