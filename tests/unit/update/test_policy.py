"""What is decided about a model, and by what; leases, spending, the choice of the start."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import msgspec
import pytest
from support.standins import manifest

from edged.errors import EdgedError
from edged.update import policy, start
from edged.update.environment import Environment, read
from edged.update.holds import Holds
from edged.update.machine import Event, Happened, Phase, Ref, State, step
from edged.update.policy import Wish, decide
from edged.update.reasons import Reason
from edged.update.records import Committed, Pin, Quarantined
from edged.update.shadow import Agreement
from edged.update.spending import Spending
from edged.worker.messages import Comparison

NOW = datetime(2026, 5, 4, tzinfo=UTC)
ONE, TWO, THREE = (Ref(number, str(number) * 64) for number in (1, 2, 3))
HERE = Environment({"onnxruntime": "1.20"}, "", "os 1")
SERVES = State(model="m", serving=TWO, previous=ONE)
FETCHES = State(model="m", phase=Phase.FETCHING, serving=TWO, target=THREE, cause="plan")


def quarantined(revision: int, environment: Environment = HERE) -> Quarantined:
    key = environment.key(str(revision) * 64, manifest().variants[0])
    return Quarantined(key=key, model="m", revision=revision, reason="golden_mismatch", text="it differs", at=NOW)


class TestDecide:
    def decided(
        self, state: State, revision: int, floor: int = 1, found: tuple[Quarantined, ...] = ()
    ) -> tuple[int, bool]:
        decision = decide(state, Wish(revision, "plan"), floor, found, HERE, planned=True)
        return decision.go_for, decision.give_up

    def test_goes_for_what_is_wanted(self):
        assert self.decided(SERVES, 3) == (3, False)
        assert self.decided(SERVES, 1) == (1, False)

    def test_leaves_what_is_so_already(self):
        assert self.decided(SERVES, 2) == (0, False)
        assert self.decided(FETCHES, 3) == (0, False)

    def test_gives_up_what_is_not_wanted_any_more(self):
        assert self.decided(FETCHES, 2) == (0, True)
        assert self.decided(FETCHES, 4) == (4, True)

    def test_goes_back_on_a_soak_that_the_plan_took_back(self):
        soaking = State(model="m", phase=Phase.SOAKING, serving=THREE, previous=TWO, target=THREE, cause="plan")
        assert self.decided(soaking, 2) == (0, True)
        assert self.decided(soaking, 1) == (1, True)

    @pytest.mark.parametrize(
        ("phase", "cause", "planned", "gives_up"),
        [
            (Phase.FETCHING, "plan", True, True),
            (Phase.FETCHING, "plan", False, False),  # it is not known yet what the plan wants
            (Phase.SOAKING, "plan", True, False),
            (Phase.SOAKING, "pin", True, True),
            (Phase.FETCHING, "pin", False, True),
            (Phase.IDLE, "plan", True, False),
        ],
    )
    def test_gives_up_what_nobody_wants_any_more(self, phase, cause, planned, gives_up):
        state = State(model="m", phase=phase, serving=TWO, previous=ONE, target=THREE, cause=cause)
        decision = decide(state, None, 1, (), HERE, planned=planned)
        assert (decision.go_for, decision.give_up) == (0, gives_up)

    def test_never_goes_below_the_floor(self):
        assert self.decided(SERVES, 1, floor=2) == (0, False)

    def test_gives_up_what_the_floor_has_been_raised_above_but_for_a_soak(self):
        soaks = State(model="m", phase=Phase.SOAKING, serving=THREE, previous=TWO, target=THREE, cause="plan")
        assert self.decided(FETCHES, 3, floor=4) == (0, True)
        assert self.decided(FETCHES, 1, floor=2) == (0, True)
        assert self.decided(soaks, 3, floor=4) == (0, False)

    def test_does_not_try_again_what_is_quarantined(self):
        assert self.decided(SERVES, 3, found=(quarantined(3),)) == (0, False)
        assert self.decided(SERVES, 3, found=(quarantined(4),)) == (3, False)

    def test_says_whether_what_is_wanted_is_refused_for_good(self):
        def refused(state, revision, **found):
            return decide(state, Wish(revision, "plan"), planned=True, environment=HERE, **found).refused

        assert refused(SERVES, 3, floor=1, quarantined=(quarantined(3),))
        assert refused(SERVES, 1, floor=2, quarantined=())
        assert refused(FETCHES, 3, floor=4, quarantined=())
        assert not refused(SERVES, 3, floor=1, quarantined=())
        assert not refused(SERVES, SERVES.serving.revision, floor=1, quarantined=())

    @pytest.mark.parametrize(
        "then",
        [
            Environment({"onnxruntime": "1.19"}, "", "os 1"),
            Environment({"onnxruntime": "1.20"}, "nvidia 550.1", "os 1"),
            Environment({"onnxruntime": "1.20"}, "", "os 0"),
        ],
        ids=["engine", "driver", "image"],
    )
    def test_tries_again_when_the_device_has_changed(self, then):
        assert self.decided(SERVES, 3, found=(quarantined(3, then),)) == (3, False)

    def test_a_pin_comes_before_the_plan(self):
        pin = Pin(model="m", revision=1, cause="pin", at=NOW)
        assert policy.wish(Wish(3, "plan"), pin) == Wish(1, "pin")
        assert policy.wish(Wish(3, "plan"), None) == Wish(3, "plan")


def test_delays_grow_are_spread_and_bounded():
    delays = [policy.fetch_delay_s(attempts, 1.0) for attempts in range(30)]
    assert delays == sorted(delays)
    assert delays[-1] <= 300
    assert policy.fetch_delay_s(3, 0.0) == delays[3] / 2
    assert [policy.poll_delay_s(900, share) for share in (0.0, 1.0)] == pytest.approx([810, 990])


class TestTheChoiceOfTheStart:
    def test_is_in_the_order_of_the_design_each_once(self):
        committed = Committed(model="m", serving=TWO, previous=ONE)
        found = start.candidates(State(model="m", serving=THREE, previous=TWO), committed, [ONE])
        assert [each.ref for each in found] == [THREE, TWO, ONE]
        assert found[-1].right == "it served before what was committed"

    def test_goes_by_what_was_committed_where_the_pointer_has_changed_on_the_disk(self):
        damaged = State(model="m", serving=Ref(TWO.revision, "3" + TWO.digest[1:]), previous=ONE)
        found = start.candidates(damaged, Committed(model="m", serving=TWO, previous=ONE), [])
        assert [each.ref for each in found] == [damaged.serving, TWO, ONE]

    def test_begins_with_what_another_start_could_not_run(self):
        found = start.candidates(State(model="m", serving=TWO, intended=THREE, previous=ONE), None, [])
        assert [each.ref for each in found] == [THREE, TWO, ONE]

    def test_has_only_the_image_on_a_new_device(self):
        assert [each.factory for each in start.candidates(State(model="m"), None, [TWO, ONE])] == [True, True]

    def test_passes_over_what_lies_below_the_floor_and_what_is_quarantined(self):
        candidate = start.Candidate(TWO, "it served last")
        assert not start.objection(SERVES, candidate, 2, [], HERE)
        assert "below 3" in start.objection(SERVES, candidate, 3, [], HERE)
        assert "quarantined" in start.objection(SERVES, candidate, 1, [quarantined(2)], HERE)

    def test_does_not_load_once_more_what_the_device_does_not_survive_where_something_else_may_serve(self):
        candidate = start.Candidate(TWO, "it served last")
        soaks = State(model="m", phase=Phase.SOAKING, serving=TWO, previous=ONE, target=TWO, attempts=5)
        assert "ended 5 times" in start.objection(soaks, candidate, 1, [], HERE)
        for may in ({"attempts": 4}, {"stopped": True}, {"previous": None}):
            assert not start.objection(msgspec.structs.replace(soaks, **may), candidate, 1, [], HERE)
        assert not start.objection(soaks, start.Candidate(ONE, "it served before"), 1, [], HERE)
        fell_back = start.pointing(soaks, ONE)
        told = start.happened(soaks, fell_back, start.Chosen(ONE, "", [(2, "it ended")]), counted=False)
        assert (told.event, told.reason) == (Event.FAILED, Reason.CRASH_LOOP)


class TestHolds:
    def test_end_by_themselves_and_can_be_renewed(self):
        holds = Holds()
        lease = holds.take("app", "m", 10.0, 0.0)
        assert holds.on("m", 9.0) == lease
        assert holds.on("other", 9.0) is None
        renewed = holds.take("app", "m", 20.0, 9.0, lease.id)
        assert holds.on("m", 15.0) == renewed
        assert holds.on("m", 20.0) is None
        with pytest.raises(EdgedError, match="no lease"):
            holds.take("app", "m", 40.0, 30.0, lease.id)

    def test_of_no_model_hold_all_and_are_bounded(self):
        holds = Holds()
        holds.take("app", "", 10.0, 0.0)
        assert holds.on("any", 1.0)
        for _ in range(255):
            holds.take("app", "m", 10.0, 0.0)
        with pytest.raises(EdgedError, match="256"):
            holds.take("app", "m", 10.0, 0.0)


def test_spending_begins_anew_each_day():
    spending = Spending()
    for more in (10, 20, 5, 20):
        spending.count(more, "a")
    assert spending.received == 55
    assert spending.left(100, "a") == 45
    assert spending.left(100, "b") == 100
    spending.count(1, "b")
    assert spending.left(100, "b") == 99


def test_the_environment_is_what_the_device_says(tmp_path):
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    )
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_ID="13"\nIMAGE_VERSION=7\n')
    assert read({}, tmp_path) == Environment({}, "nvidia 550.54.15", "debian 13 7")
    kernel, commit = "ab" * 32, "cd" * 32  # a new deployment often has the kernel of the last one
    link = tmp_path / f"sysroot/ostree/boot.1/default/{kernel}/0"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../../deploy/default/deploy/{commit}.0")
    (tmp_path / "proc/cmdline").write_text(f"root=x ostree=/ostree/boot.1/default/{kernel}/0 quiet")
    assert read({}, tmp_path).os_image == f"{commit}.0"
    (tmp_path / "proc/cmdline").write_text(f"root=x composefs={commit} quiet")
    assert read({}, tmp_path).os_image == commit
    assert read({}, tmp_path / "nowhere") == Environment({}, "", "")


class TestAgreement:
    def compared(self, rows: int, agreeing: int, outside: int, elements: int) -> list[Comparison]:
        return [Comparison("y", elements, outside, 1.0, rows, agreeing, True)]

    def test_of_classes_is_by_the_largest_element(self):
        agreement = Agreement()
        agreement.add(self.compared(10, 9, 100, 100), frozenset({"y"}))
        assert agreement.share == 0.9

    def test_of_values_is_by_tolerance(self):
        agreement = Agreement()
        agreement.add(self.compared(10, 10, 2, 10), frozenset())
        assert agreement.share == 0.8

    def test_counts_what_could_not_be_run(self):
        agreement = Agreement()
        agreement.add(self.compared(1, 1, 0, 4), frozenset({"y"}))
        agreement.failed = 1
        assert agreement.share == 0.5


class TestThePointerAtAStart:
    def test_comes_back_to_what_was_meant_once_that_runs_again(self):
        fallen = start.pointing(SERVES, ONE)
        assert (fallen.serving, fallen.previous, fallen.intended) == (ONE, TWO, TWO)
        assert start.pointing(fallen, ONE) == fallen
        assert start.pointing(fallen, TWO) == SERVES

    def test_names_no_revision_twice_whatever_was_chosen(self):
        refs = (None, ONE, TWO, THREE)
        for chosen, intended, older in itertools.product(refs, repeat=3):
            for phase in Phase:
                state = State(
                    model="m", phase=phase, serving=TWO, previous=ONE, intended=intended, older=older, target=TWO
                )
                now = start.pointing(state, chosen)
                if phase is Phase.SOAKING and chosen != TWO:
                    now, _ = step(now, Happened(Event.FAILED, "it does not serve", Reason.LOAD_FAILED))
                    assert now.serving == chosen or chosen is None
                if older != ONE and chosen is not None:
                    assert now.serving not in (now.previous, now.intended)

    def test_leaves_what_soaks_where_it_is_and_tries_it_before_what_was_meant(self):
        soaks = State(model="m", phase=Phase.SOAKING, serving=TWO, previous=ONE, target=TWO, intended=THREE)
        assert [each.ref for each in start.candidates(soaks, None, [])] == [TWO, THREE, ONE]
        assert start.pointing(soaks, TWO).serving == TWO

    def test_takes_up_no_update_to_what_serves(self):
        assert start.serves_already(State(model="m", phase=Phase.TRIAL, serving=TWO, target=TWO))
        assert not start.serves_already(State(model="m", phase=Phase.SOAKING, serving=TWO, target=TWO))
        assert not start.serves_already(FETCHES)
