"""What a plan wants of a device: its revision, its place in a rollout, when it may act."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Code, EdgedError
from edged.update import plan as plans
from edged.update.plan import ClassPlan, Plan, Rollout, Wave, Window

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)  # a Saturday


def made(rollout=None, **terms):
    return Plan(fleet="shops", models={"digits": {"generic": ClassPlan(revision=1, rollout=rollout, **terms)}})


def rolled(*waves, **more):
    return Rollout(id="r-2", revision=2, waves=tuple(waves), **more)


def wanted(plan, device="d-1", now=NOW, **serving):
    (found,) = plans.evaluate(plan, device, "generic", now, serving)
    return found


def devices(count=4000):
    return [f"device-{number}" for number in range(count)]


class TestBuckets:
    def test_are_as_documented(self):
        digest = hashlib.sha256(b"r-2\0d-1").digest()
        assert plans.bucket("r-2", "d-1") == int.from_bytes(digest[:8], "big") % 10_000

    def test_are_even(self):
        counts = [0] * 10
        for device in devices():
            counts[plans.bucket("r-2", device) // 1000] += 1
        assert min(counts) > 300

    def test_another_rollout_deals_anew(self):
        same = sum(plans.bucket("a", device) // 5000 == plans.bucket("b", device) // 5000 for device in devices())
        assert 1700 < same < 2300

    def test_the_end_of_a_name_is_seen(self):
        assert plans.bucket("ab", "c") != plans.bucket("a", "bc")


class TestARollout:
    @given(st.floats(0.01, 100), st.floats(0.01, 100))
    def test_a_larger_wave_holds_the_smaller(self, one, other):
        small, large = sorted((one, other))
        device = f"d-{one}"
        if wanted(made(rolled(Wave(percent=small))), device).revision == 2:
            assert wanted(made(rolled(Wave(percent=large))), device).revision == 2

    def test_takes_its_share(self):
        plan = made(rolled(Wave(percent=10), Wave(percent=100)))
        taken = sum(wanted(plan, device).revision == 2 for device in devices())
        assert 320 < taken < 480

    def test_takes_about_the_count(self):
        plan = made(rolled(Wave(devices=400), population=4000))
        taken = sum(wanted(plan, device).revision == 2 for device in devices())
        assert 320 < taken < 480

    def test_of_all_takes_all(self):
        plan = made(rolled(Wave(percent=100)))
        assert {wanted(plan, device).revision for device in devices(500)} == {2}

    def test_has_its_devices_watch_for_as_long_as_their_wave_asks(self):
        plan = made(rolled(Wave(percent=10, min_soak_s=3600), Wave(percent=100, min_soak_s=60), open_wave=1))
        for device in devices(50):
            found = wanted(plan, device)
            assert found.min_soak_s == (3600 if found.wave == 0 else 60)
        early = made(rolled(Wave(percent=10, min_soak_s=3600), Wave(percent=100, min_soak_s=60)))
        assert all(wanted(early, device).min_soak_s == 0 for device in devices(50) if wanted(early, device).wave)

    def test_says_which_wave_is_ones_own(self):
        plan = made(rolled(Wave(percent=10), Wave(percent=100)))
        for device in devices(50):
            found = wanted(plan, device)
            assert found.wave == (0 if found.bucket < 1000 else 1)
            assert found.why == ("rollout" if found.wave == 0 else "plan")
            assert found.rollout == "r-2"

    def test_an_open_wave_waits_for_its_time(self):
        opens = NOW + timedelta(hours=1)
        plan = made(rolled(Wave(percent=100, opens_at=opens)))
        assert (wanted(plan).revision, wanted(plan).opens_at) == (1, opens)
        later = wanted(plan, now=opens)
        assert (later.revision, later.opens_at) == (2, None)

    def test_paused_keeps_who_has_it(self):
        plan = made(rolled(Wave(percent=100), status="paused"))
        assert wanted(plan, digits=2).revision == 2
        assert wanted(plan, digits=1).revision == 1
        assert wanted(plan).revision == 1

    def test_aborted_takes_all_back(self):
        plan = made(rolled(Wave(percent=100), status="aborted"))
        assert wanted(plan, digits=2).revision == 1

    def test_a_pin_comes_before_it(self):
        plan = made(rolled(Wave(percent=100)), pins={"d-1": 7})
        assert (wanted(plan).revision, wanted(plan).why) == (7, "pin")
        assert wanted(plan, "d-2").revision == 2


class TestAModel:
    def test_is_not_wanted_by_another_class(self):
        assert plans.evaluate(made(), "d-1", "jetson-vision-standard", NOW) == ()

    def test_jitter_is_ones_own_and_bounded(self):
        plan = made(download_jitter_s=600)
        delays = {wanted(plan, device).jitter_s for device in devices(100)}
        assert len(delays) == 100
        assert 0 <= min(delays) < 100 < 500 < max(delays) < 600


class TestWindows:
    def test_none_is_always(self):
        assert plans.within((), NOW)

    @pytest.mark.parametrize(
        ("days", "start", "hours", "inside"),
        [
            ((), "02:00", 2, True),
            ((), "03:00", 1, True),
            ((), "02:00", 1, False),  # its end is no part of it
            ((), "04:00", 1, False),
            (("sat",), "02:00", 2, True),
            (("sun",), "02:00", 2, False),
            (("fri",), "23:00", 5, True),  # begun on the day before
            (("sat",), "23:00", 5, False),
        ],
    )
    def test_hold_by_day_and_time(self, days, start, hours, inside):
        window = Window(days=days, start=start, duration_s=hours * 3600, zone="utc")
        assert plans.within((window,), NOW) is inside

    def test_local_is_the_devices_own(self):
        there = NOW.astimezone(timezone(timedelta(hours=-5)))  # 22:00 on Friday
        assert plans.within((Window(days=("fri",), start="22:00", duration_s=3600),), there)
        assert not plans.within((Window(days=("fri",), start="22:00", duration_s=3600, zone="utc"),), there)


class TestTheDocument:
    def test_is_read_as_it_was_written(self):
        rollout = rolled(Wave(percent=1.5, opens_at=NOW), Wave(devices=9), population=9)
        plan = made(rollout, pins={"d-1": 3}, windows=(Window(start="01:00", duration_s=60),))
        assert plans.decode(plans.encode(plan)) == plan

    @pytest.mark.parametrize(
        ("rollout", "said"),
        [
            (rolled(Wave()), "one of percent and devices"),
            (rolled(Wave(percent=1, devices=1)), "one of percent and devices"),
            (rolled(Wave(devices=1)), "size is not given"),
            (rolled(Wave(percent=50), Wave(percent=10)), "fewer devices"),
            (rolled(Wave(percent=50), open_wave=1), "there are 1 waves"),
        ],
    )
    def test_must_hold_together(self, rollout, said):
        with pytest.raises(EdgedError, match=said) as caught:
            plans.decode(plans.encode(made(rollout)))
        assert caught.value.code == Code.PLAN_INVALID

    def test_names_no_more_models_than_a_device_can_decide_on(self):
        some = {f"m{number}": {} for number in range(plans.MOST_MODELS)}
        plan = Plan(fleet="shops", models=some)
        assert len(plans.decode(plans.encode(plan)).models) == plans.MOST_MODELS
        more = msgspec.structs.replace(plan, models={**some, "one-more": {}})
        with pytest.raises(EdgedError, match="models names 1001 models, 1000 are allowed") as caught:
            plans.decode(plans.encode(more))
        assert caught.value.code == Code.PLAN_INVALID

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"[" * 100_000,
            b'{"fleet":"a","models":{"../x":{}}}',
            b'{"fleet":"a","models":{"m":{"generic":{"revision":0}}}}',
            b'{"fleet":"a","surprise":1}',
            b'{"schema":2,"fleet":"a"}',
            b" " * (plans.MAX_PLAN_BYTES + 1),
        ],
    )
    def test_refuses_what_is_none(self, raw):
        with pytest.raises(EdgedError) as caught:
            plans.decode(raw)
        assert caught.value.code == Code.PLAN_INVALID
