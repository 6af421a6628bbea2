"""A rate is kept over any stretch of time, and a share of time as well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.serving.duty import Duty
from edged.serving.rate import Bucket


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 2), min_size=1, max_size=50))
def test_never_more_than_the_rate_and_a_tenth_of_a_second_at_once(rate, pauses):
    bucket, now, passed = Bucket(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        passed += bucket.take(now)
        assert passed <= rate * now + max(rate / 10, 1) + 1e-6


@given(st.floats(0.1, 1000), st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=50))
def test_the_first_priority_takes_two_seconds_of_it_ahead_and_no_more(rate, arrivals):
    bucket, now, passed = Bucket(rate, 0.0), 0.0, 0
    for pause, first in arrivals:
        now += pause
        passed += bucket.take(now, ahead=first)
        assert passed <= rate * now + max(rate / 10, 1) + max(rate * 2, 1) + 1e-6


def test_the_others_wait_for_what_the_first_priority_took_ahead():
    bucket = Bucket(10, 0.0)
    assert [bucket.take(0.0, ahead=True) for _ in range(22)] == [True] * 21 + [False]
    assert not bucket.take(1.9)
    assert bucket.take(1.9, ahead=True)
    assert not bucket.take(2.0)
    assert bucket.take(2.25)


def test_the_rate_is_reached():
    bucket = Bucket(50, 0.0)
    assert sum(bucket.take(step / 1000) for step in range(10_000)) in range(499, 506)


def test_time_that_goes_back_is_no_time():
    bucket = Bucket(1, 10.0)
    assert bucket.take(10.0)
    assert not bucket.take(0.0)


class TestDuty:
    def at(self, share):
        duty = Duty()
        duty.share = share
        return duty

    def busy(self, duty, work_s, until_s, *, ahead, start_s=10.0):
        """Somebody asks for as much as he may have; how long he computes."""
        now, worked_s = start_s, 0.0
        while now < until_s:
            now += duty.rest_s(now, ahead=ahead) + work_s
            duty.spent(work_s, now, ahead=ahead)
            worked_s += work_s
        return worked_s

    def test_whole_time_asks_no_rest(self):
        duty = Duty()
        duty.spent(1.0, 10.0)
        assert duty.rest_s(10.0) == 0

    def test_half_the_time_asks_as_much_rest_as_work(self):
        duty = self.at(0.5)
        duty.spent(1.0, 10.0)
        assert duty.rest_s(10.0) == 1.0
        assert duty.rest_s(10.75) == 0.25
        assert duty.rest_s(12.0) == 0

    def test_the_highest_priority_goes_ahead_and_the_others_pay(self):
        duty = self.at(0.5)
        duty.spent(0.5, 10.0)
        assert duty.rest_s(10.0, ahead=True) == 0
        duty.spent(0.5, 10.5)
        assert duty.rest_s(10.5) == pytest.approx(1.0), "nobody rested while it computed"

    @given(st.floats(0.05, 0.95), st.floats(0.001, 1.5), st.booleans())
    def test_the_share_holds_whoever_asks(self, share, work_s, first):
        """For the first priority with the 2 s that it may run ahead; an inference more or less."""
        worked_s = self.busy(self.at(share), work_s, 110.0, ahead=first)
        assert share * 100.0 - 1e-6 <= worked_s <= share * 100.0 + 2 * work_s + (2.0 if first else 0.0) + 1e-6

    def test_what_computes_beside_another_is_no_rest(self):
        duty = self.at(0.5)
        duty.spent(1.0, 10.0)
        duty.spent(1.0, 10.0)
        assert duty.rest_s(10.0) == 2.0

    def test_no_debt_grows_without_bound(self):
        duty = self.at(0.05)
        duty.spent(60.0, 100.0, ahead=True)
        assert duty.rest_s(100.0) == pytest.approx(4.0 / 0.05)
        assert duty.rest_s(100.0, ahead=True) == pytest.approx(2.0 / 0.05)

    def test_the_highest_never_rests_for_what_others_computed(self):
        duty = self.at(0.05)
        for now in (100.0, 100.0, 160.0):
            duty.spent(60.0, now)
            assert duty.rest_s(now) == pytest.approx(2.0 / 0.05)
            assert duty.rest_s(now, ahead=True) == 0

    def test_a_greater_share_is_felt_at_once(self):
        duty = self.at(0.05)
        duty.spent(2.0, 10.0)
        assert duty.rest_s(10.0) == pytest.approx(38.0)
        duty.share = 0.95
        assert duty.rest_s(10.0) == pytest.approx(2.0)
        duty.share = 1.0
        assert duty.rest_s(10.0) == 0

    @given(st.floats(0.05, 1.0), st.floats(0, 3), st.floats(0.1, 10), st.booleans())
    def test_how_long_work_takes_is_how_long_it_does(self, share, before_s, work_s, first):
        duty = self.at(share)
        duty.spent(before_s, 10.0)
        told_s, now, step_s = duty.takes_s(work_s, 10.0, ahead=first), 10.0, 0.01
        for _ in range(int(work_s / step_s)):
            now += duty.rest_s(now, ahead=first) + step_s
            duty.spent(step_s, now, ahead=first)
        assert now - 10.0 == pytest.approx(told_s, abs=3 * step_s / share)
