"""When a batch leaves: with nobody more to come, and never much later."""

from hypothesis import given
from hypothesis import strategies as st

from edged.bundle.manifest import Queue
from edged.serving.closing import QUIET_NS, Closing, spare_ns


def waited(closing, gaps):
    """How long a batch is waited with, and how many it then holds; others come after `gaps` ns, one after the other."""
    arrivals = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    count, now = 1, 0
    closing.begin(count, now)
    for _ in range(10_000):
        left = closing.wait_ns(count, 0, now)
        if not left:
            return now, count
        woken = arrivals[closing.enough - 2] if 2 <= closing.enough <= len(arrivals) + 1 else now + left
        now = max(min(now + left, woken), now)
        count = 1 + sum(at <= now for at in arrivals)
    raise AssertionError("it never leaves")


@given(st.lists(st.lists(st.integers(1_000, 1_000_000), max_size=40), min_size=1, max_size=40))
def test_none_is_waited_with_long_after_the_last_arrival(batches):
    closing = Closing(Queue())
    for gaps in batches:
        left_ns, count = waited(closing, gaps)
        assert left_ns - sum(gaps[: count - 1]) <= 2 * QUIET_NS


def test_a_lone_caller_is_hardly_ever_waited_with():
    closing = Closing(Queue())
    found = [waited(closing, [])[0] for _ in range(160)]
    assert sum(each > 0 for each in found) == 10


def test_callers_that_come_again_are_waited_for_and_the_last_is_not_waited_after():
    closing = Closing(Queue())
    found = [waited(closing, [100_000] * 7) for _ in range(64)]
    assert all(count == 8 for _, count in found[16:])
    assert sum(took_ns > 700_000 for took_ns, _ in found[17:]) <= 3


def test_who_has_gone_is_soon_not_waited_for_any_more():
    closing = Closing(Queue())
    for _ in range(64):
        waited(closing, [100_000] * 7)
    found = [waited(closing, [])[0] for _ in range(64)]
    assert sum(each > 0 for each in found[32:]) <= 2


def test_the_models_own_delay_takes_its_place():
    closing = Closing(Queue(max_delay_us=100, preferred_batch_size=4))
    closing.begin(1, 0)
    assert closing.wait_ns(1, 0, 0) == 100_000
    assert closing.wait_ns(3, 0, 60_000) == 40_000
    assert closing.wait_ns(3, 0, 100_000) == 0
    assert closing.rows(64) == 4
    assert closing.rows(2) == 2


@given(st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 10**10))
def test_however_often_it_is_asked_half_of_a_callers_time_is_left_to_answer_him(gives_ns, batch_ns, waited_ns, then_ns):
    first = waited_ns + spare_ns(waited_ns, gives_ns - waited_ns, batch_ns)
    assert first == max((gives_ns - batch_ns) // 2, waited_ns)
    then_ns = min(waited_ns + then_ns, first)
    assert then_ns + spare_ns(then_ns, gives_ns - then_ns, batch_ns) == first
