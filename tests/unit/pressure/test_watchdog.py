"""When an accelerator counts as failed, and when it is tried again."""

from __future__ import annotations

import pytest

from edged.pressure.watchdog import Action, Beat, Watched, due, is_gone, put_off, step

GOOD = Beat(answered_s=0.1)
LATE = Beat(answered_s=9.0)
HUNG = Beat()
GONE = Beat(present=False)
REFUSED = Beat(refused="onnxruntime failed: the chip says no")
BROKEN = Beat(failure="it cannot be opened")
NONSENSE = Beat(answered_s=0.1, doubt="it says -89 °C, which cannot be")


def test_a_sound_one_is_left_alone():
    assert step(Watched(), GOOD, 0.0) == (Watched(), Action.NOTHING)
    assert due(Watched(), 1e9) is Action.NOTHING


@pytest.mark.parametrize(
    ("beat", "why"),
    [
        (HUNG, "did not answer"),
        (LATE, "took 9.0 s"),
        (REFUSED, "the chip says no"),
        (BROKEN, "it cannot be opened"),
        (NONSENSE, "-89 °C"),
        (GONE, "gone"),
    ],
)
def test_two_faults_in_a_row_fail_it_and_one_that_is_gone_fails_at_once(beat: Beat, why: str):
    watched, action = step(Watched(), beat, 0.0)
    if beat is not GONE:
        assert action is Action.NOTHING
        watched, action = step(watched, beat, 10.0)
    assert action is Action.FAIL
    assert why in watched.failed


def test_a_fault_now_and_then_does_not():
    watched = Watched()
    for number in range(100):
        watched, action = step(watched, LATE if number % 2 else GOOD, float(number))
        assert action is Action.NOTHING


def test_it_is_tried_again_ever_more_rarely_and_recovers_when_it_answers():
    watched, _ = step(Watched(), GONE, 0.0)
    delays, now = [], 0.0
    for _ in range(12):
        assert due(watched, watched.retry_at - 1) is Action.NOTHING
        delays.append(watched.retry_at - now)
        now = watched.retry_at
        assert due(watched, now) is Action.RETRY
        watched, action = step(watched, HUNG, now)
        assert action is Action.NOTHING, "it is told once"
    assert delays[0] == 30
    assert delays == sorted(delays)
    assert delays[-1] == 3600
    watched, action = step(watched, GOOD, now)
    assert action is Action.RECOVER
    assert watched == Watched()


def test_a_retry_that_could_not_be_made_counts_for_nothing_and_is_made_later():
    failed, _ = step(Watched(), GONE, 0.0)
    failed, _ = step(failed, HUNG, 30.0)
    put = put_off(failed, 90.0)
    assert (put.faults, put.failed, put.retries, put.retry_at) == (failed.faults, failed.failed, failed.retries, 150.0)


def test_it_is_gone_once_its_node_has_stayed_away():
    watched, told = Watched(), []
    for now in range(5):
        watched, _ = step(watched, GONE, float(now))
        told.append(is_gone(watched))
    assert told == [False, False, False, True, True]
    assert not is_gone(step(watched, HUNG, 9.0)[0]), "it is there, and may work again"
    assert not is_gone(step(watched, GOOD, 9.0)[0])
