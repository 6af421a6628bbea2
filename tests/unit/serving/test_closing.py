"""When a batch leaves: with nobody more to come, and never much later."""

from hypothesis import given
from hypothesis import strategies as st

from edged.bundle.manifest import Queue
from edged.serving.closing import QUIET_NS, QUIET_TURNS, Closing

TURN_NS = 5_000


def turns(closing, arrivals, turn_ns=TURN_NS):
    """How many turns a batch is waited with, and how many it then holds; `arrivals` come one a turn after the first."""
    count, now = 1, 0
    closing.begin(count, now)
    for turn in range(10_000):
        if closing.wait_s(count, 0, now) < 0:
            return turn, count
        now += turn_ns
        if turn < len(arrivals):
            count += arrivals[turn]
    raise AssertionError("it never leaves")


@given(st.lists(st.lists(st.integers(0, 2), max_size=40), min_size=1, max_size=40), st.integers(1_000, 100_000))
def test_none_is_waited_with_long_after_the_last_arrival(batches, turn_ns):
    closing = Closing(Queue())
    for arrivals in batches:
        waited, _ = turns(closing, arrivals, turn_ns)
        last = max((turn + 1 for turn, number in enumerate(arrivals[:waited]) if number), default=0)
        assert waited - last <= QUIET_TURNS + 1
        assert (waited - last) * turn_ns <= QUIET_NS + turn_ns


def test_a_lone_caller_is_hardly_ever_waited_with():
    closing = Closing(Queue())
    waited = [turns(closing, [])[0] for _ in range(160)]
    assert sum(each > 0 for each in waited) == 10


def test_callers_that_come_again_are_waited_for_and_the_last_is_not_waited_after():
    closing = Closing(Queue())
    found = [turns(closing, [1] * 7) for _ in range(64)]
    assert all(count == 8 for _, count in found[16:])
    assert sum(waited > 7 for waited, _ in found[17:]) <= 3


def test_who_has_gone_is_soon_not_waited_for_any_more():
    closing = Closing(Queue())
    for _ in range(64):
        turns(closing, [1] * 7)
    waited = [turns(closing, [])[0] for _ in range(64)]
    assert sum(each > 0 for each in waited[32:]) <= 2


def test_the_models_own_delay_takes_its_place():
    closing = Closing(Queue(max_delay_us=100, preferred_batch_size=4))
    closing.begin(1, 0)
    assert closing.wait_s(1, 0, 0) == 100e-6
    assert closing.wait_s(3, 0, 60_000) == 40e-6
    assert closing.wait_s(3, 0, 100_000) < 0
    assert closing.rows(64) == 4
    assert closing.rows(2) == 2
