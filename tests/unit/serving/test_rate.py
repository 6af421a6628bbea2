"""A rate is kept over any stretch of time, and a share of time as well."""

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


def test_the_rate_is_reached():
    bucket = Bucket(50, 0.0)
    assert sum(bucket.take(step / 1000) for step in range(10_000)) in range(499, 506)


def test_time_that_goes_back_is_no_time():
    bucket = Bucket(1, 10.0)
    assert bucket.take(10.0)
    assert not bucket.take(0.0)


class TestDuty:
    def test_whole_time_asks_no_rest(self):
        duty = Duty()
        duty.spent(1.0, 10.0)
        assert duty.rest_s(2, 10.0) == 0

    def test_half_the_time_asks_as_much_rest_as_work(self):
        duty = Duty()
        duty.share = 0.5
        duty.spent(1.0, 10.0)
        assert duty.rest_s(2, 10.0) == 1.0
        assert duty.rest_s(2, 10.75) == 0.25
        assert duty.rest_s(2, 12.0) == 0

    def test_the_highest_priority_goes_ahead_and_the_others_pay(self):
        duty = Duty()
        duty.share = 0.5
        duty.spent(0.5, 10.0)
        assert duty.rest_s(1, 10.0) == 0
        duty.spent(0.5, 10.1)
        assert abs(duty.rest_s(2, 10.1) - 0.9) < 1e-9

    def test_no_debt_grows_without_bound(self):
        duty = Duty()
        duty.share = 0.01
        duty.spent(60.0, 10.0)
        assert duty.rest_s(2, 10.0) <= 2.0
