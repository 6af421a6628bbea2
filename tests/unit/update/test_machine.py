"""The update machine: every phase with every event, every reason, and the pointer that must never be lost."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.update.machine import REASONS, TABLE, WORK, Effect, Event, Happened, Phase, Ref, Soaked, State, step
from edged.update.reasons import Reason

ONE, TWO, THREE = (Ref(number, str(number) * 64) for number in (1, 2, 3))


def state(phase: Phase, **fields: object) -> State:
    """A model that serves revision 2 after 1, and is on its way to 3 where the phase says so; soaking: there."""
    found = State(model="m", phase=phase, serving=TWO, previous=ONE)
    if phase is Phase.SOAKING:
        found = State(model="m", phase=phase, serving=THREE, previous=TWO, older=ONE, target=THREE, cause="plan")
    elif phase in WORK:
        found = msgspec.structs.replace(found, target=THREE, cause="plan")
    elif phase is Phase.COMMITTED:
        found = State(model="m", phase=phase, serving=THREE, previous=TWO)
    return msgspec.structs.replace(found, **fields)


def happened(event: Event) -> Happened:
    reason = Reason.OPERATOR if event is Event.FAILED else None
    target = THREE if event is Event.WANTED else None
    return Happened(event, "because", reason, target, "plan")


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, Event)), ids=str)
def test_each_event_in_each_phase_follows_the_table_or_changes_nothing(phase, event):
    before = state(phase)
    after, effects = step(before, happened(event))
    if (phase, event) not in TABLE:
        assert (after, effects) == (before, ())
        return
    assert after.phase is TABLE[phase, event].phase
    assert effects == TABLE[phase, event].effects
    assert after.deferred == ("because" if event is Event.DEFERRED else "")


def test_the_machine_can_always_end_and_always_begin():
    for phase in Phase:
        seen, found = set(), {phase}
        while found - seen:
            seen |= found
            found = {rule.phase for (each, _), rule in TABLE.items() if each in seen}
        assert seen | found >= {Phase.IDLE, Phase.COMMITTED}, phase


def test_each_phase_that_works_can_fail_be_superseded_wait_and_be_found_at_a_start():
    for phase in WORK:
        for event in (Event.FAILED, Event.SUPERSEDED, Event.DEFERRED, Event.RESUMED, Event.STARTED):
            assert (phase, event) in TABLE
    assert all((phase, Event.STARTED) in TABLE for phase in Phase)


def test_each_reason_ends_some_phase_and_only_phases_that_can_fail_have_reasons():
    assert set().union(*REASONS.values()) == set(Reason)
    assert {phase for phase, event in TABLE if event is Event.FAILED} == set(REASONS)


class TestThePointer:
    def test_stays_until_the_flip(self):
        for phase, event in TABLE:
            if phase in (Phase.IDLE, Phase.FETCHING, Phase.STAGED, Phase.TRIAL) and event is not Event.SWAPPED:
                after, _ = step(state(phase), happened(event))
                assert (after.serving, after.previous) == (TWO, ONE)

    def test_is_moved_by_a_change_of_places_that_is_remembered_while_it_soaks(self):
        swaps, effects = step(state(Phase.TRIAL), Happened(Event.SWAPS, "too little memory"))
        assert (swaps.phase, swaps.serving, swaps.swaps, effects) == (
            Phase.TRIAL,
            TWO,
            "too little memory",
            (Effect.SWAP,),
        )
        soaks, effects = step(swaps, Happened(Event.SWAPPED))
        assert (soaks.phase, soaks.serving, soaks.previous, soaks.older) == (Phase.SOAKING, THREE, TWO, ONE)
        assert (soaks.swaps, effects) == ("too little memory", (Effect.FLIP, Effect.SOAK))
        crashed, _ = step(soaks, Happened(Event.CRASHED))
        assert step(crashed, Happened(Event.STARTED))[0].swaps
        for event in (Event.PASSED, Event.FAILED):
            assert not step(soaks, happened(event))[0].swaps

    @pytest.mark.parametrize("event", [Event.DEFERRED, Event.STARTED, Event.RESUMED])
    def test_is_not_moved_by_a_change_of_places_that_did_not_come_about(self, event):
        swaps, _ = step(state(Phase.TRIAL), Happened(Event.SWAPS, "too little memory"))
        after, _ = step(swaps, happened(event))
        assert (after.serving, after.swaps) == (TWO, "")

    @pytest.mark.parametrize(("event", "left"), [(Event.PASSED, None), (Event.FAILED, ONE)])
    def test_what_a_start_could_not_run_is_meant_until_another_is_committed(self, event, left):
        before = msgspec.structs.replace(state(Phase.SOAKING), intended=ONE)
        after, _ = step(before, Happened(event))
        assert after.intended == left

    @pytest.mark.parametrize("event", [Event.PASSED, Event.SKIPPED])
    def test_is_moved_by_the_flip_and_remembers_what_was_before(self, event):
        after, effects = step(state(Phase.SHADOW), Happened(event))
        assert (after.serving, after.previous, after.older) == (THREE, TWO, ONE)
        assert effects[0] is Effect.FLIP

    @pytest.mark.parametrize("event", [Event.FAILED, Event.SUPERSEDED])
    def test_is_as_before_the_flip_when_that_is_taken_back(self, event):
        flipped, _ = step(state(Phase.SHADOW), Happened(Event.PASSED))
        back, effects = step(flipped, happened(event))
        assert (back.phase, back.serving, back.previous, back.older) == (Phase.IDLE, TWO, ONE, None)
        assert effects[0] is Effect.FLIP_BACK

    def test_stays_where_there_is_nothing_to_go_back_to(self):
        first = State(model="m", phase=Phase.SOAKING, serving=ONE, target=ONE, cause="plan")
        after, effects = step(first, happened(Event.FAILED))
        assert (after.phase, after.serving, effects) == (Phase.IDLE, ONE, ())

    def test_is_kept_by_a_commit(self):
        after, _ = step(state(Phase.SOAKING), Happened(Event.PASSED))
        assert (after.phase, after.serving, after.previous) == (Phase.COMMITTED, THREE, TWO)
        assert (after.target, after.older, after.crashes, after.cause) == (None, None, 0, "")

    @given(st.lists(st.sampled_from(list(Event)), max_size=40))
    def test_never_points_to_what_did_not_pass_its_trial(self, events):
        now = State(model="m", serving=ONE)
        passed = {ONE}
        numbers = itertools.count(2)
        for event in events:
            target = Ref(next(numbers), "d") if event is Event.WANTED else None
            before = now
            now, _ = step(now, Happened(event, "", Reason.OPERATOR if event is Event.FAILED else None, target))
            if before.phase is Phase.TRIAL and event in (Event.PASSED, Event.SWAPPED):
                passed.add(before.target)
            assert now.serving in passed
            assert now.previous in passed | {None}

    @given(st.lists(st.one_of(st.sampled_from(list(Event)), st.integers(1, 3)), max_size=60))
    def test_never_names_one_revision_twice(self, events):
        now = State(model="m", serving=ONE)
        for event in events:
            reason = Reason.OPERATOR if event is Event.FAILED else None
            wanted = Happened(Event.WANTED, target=(ONE, TWO, THREE)[event - 1]) if isinstance(event, int) else None
            if event is not Event.WANTED:  # which comes with what is wanted
                now, _ = step(now, wanted or Happened(event, "", reason))
            assert now.previous != now.serving


def test_what_serves_by_now_is_not_wanted_any_more():
    now = state(Phase.IDLE)
    assert step(now, Happened(Event.WANTED, target=Ref(TWO.revision, ""))) == (now, ())


def test_what_a_soak_is_held_to_is_remembered_from_the_wish():
    wish = Happened(Event.WANTED, target=THREE, cause="plan", allow_unproven=False, least_soak_s=60.0)
    now, _ = step(State(model="m", serving=TWO), wish)
    for event in (Event.FETCHED, Event.TAKEN_IN, Event.PASSED, Event.SKIPPED, Event.STARTED):
        now, _ = step(now, Happened(event))
    assert (now.phase, now.allow_unproven, now.least_soak_s) == (Phase.SOAKING, False, 60.0)


class TestCounting:
    def test_a_phase_begun_again_counts_and_a_new_phase_begins_at_none(self):
        now = state(Phase.FETCHING)
        for attempts in (1, 2):
            now, _ = step(now, Happened(Event.RETRY))
            assert now.attempts == attempts
        now, _ = step(now, Happened(Event.FETCHED))
        assert now.attempts == 0

    def test_a_start_counts_in_what_is_under_way_and_not_in_what_waits(self):
        assert step(state(Phase.SOAKING), Happened(Event.STARTED))[0].attempts == 1
        assert step(state(Phase.IDLE), Happened(Event.STARTED))[0].attempts == 0

    @pytest.mark.parametrize("phase", [Phase.TRIAL, Phase.SHADOW, Phase.SOAKING])
    def test_a_start_after_an_end_as_it_should_be_does_not_count_and_the_next_one_does(self, phase):
        now, _ = step(state(phase, attempts=2), Happened(Event.STOPPED))
        now, _ = step(now, Happened(Event.STARTED))
        assert now.attempts == 2
        assert step(now, Happened(Event.STARTED))[0].attempts == 3

    @pytest.mark.parametrize("phase", [Phase.TRIAL, Phase.SHADOW, Phase.SOAKING])
    def test_what_has_lasted_is_not_what_the_starts_before_were_about(self, phase):
        before = state(phase, attempts=2, deferred="somebody holds it", swaps="one has room")
        now, effects = step(before, Happened(Event.LASTED))
        assert (now, effects) == (msgspec.structs.replace(before, attempts=0), ())

    def test_the_starts_of_a_trial_and_of_its_comparison_are_one_count(self):
        """Each of them begins with the trial: what no comparison survives would pass its trial for ever."""
        now = state(Phase.SHADOW)
        for attempts in (1, 2, 3):
            now, _ = step(now, Happened(Event.STARTED))
            assert (now.phase, now.attempts) == (Phase.TRIAL, attempts)
            now, _ = step(now, Happened(Event.PASSED))
        assert step(now, Happened(Event.RETRY))[0].attempts == 3  # its worker was gone, and edged was not
        assert step(now, Happened(Event.PASSED))[0].attempts == 0

    def test_what_was_fetched_wrong_is_counted_until_another_is_wanted(self):
        now = state(Phase.STAGED)
        now, _ = step(now, Happened(Event.RETRY))
        now, _ = step(now, Happened(Event.FETCHED))
        assert (now.phase, now.attempts, now.refetches) == (Phase.STAGED, 0, 1)
        assert step(now, happened(Event.FAILED))[0].refetches == 0
        assert step(state(Phase.IDLE, refetches=1), happened(Event.WANTED))[0].refetches == 0

    def test_a_soak_is_known_as_far_as_it_was_told_and_only_while_it_lasts(self):
        now = state(Phase.SOAKING)
        now, _ = step(now, Happened(Event.STOPPED, soaked=Soaked(90.0, 12)))
        now, _ = step(now, Happened(Event.STARTED))
        assert now.soaked == Soaked(90.0, 12)
        for event in (Event.PASSED, Event.FAILED):
            assert step(now, happened(event))[0].soaked == Soaked()

    def test_a_soak_that_the_daemon_did_not_survive_begins_anew(self):
        now, _ = step(state(Phase.SOAKING), Happened(Event.LASTED, soaked=Soaked(600.0, 12)))
        assert (now.attempts, now.soaked) == (0, Soaked(600.0, 12))
        assert step(now, Happened(Event.STARTED))[0].soaked == Soaked()

    def test_crashes_survive_a_start(self):
        now, _ = step(state(Phase.SOAKING), Happened(Event.CRASHED))
        now, _ = step(now, Happened(Event.STARTED))
        assert now.crashes == 1

    def test_another_update_begins_with_none(self):
        now, _ = step(state(Phase.IDLE, crashes=2), happened(Event.WANTED))
        assert now.crashes == 0


def test_what_is_superseded_is_only_what_was_meant():
    now = state(Phase.FETCHING)
    assert step(now, Happened(Event.SUPERSEDED, target=ONE)) == (now, ())
    assert step(now, Happened(Event.SUPERSEDED, target=THREE))[0].phase is Phase.IDLE


def test_only_a_commit_forgets_what_a_start_could_not_run():
    soaks = state(Phase.SOAKING, intended=THREE)
    assert step(soaks, Happened(Event.PASSED))[0].intended is None
    for event in (Event.STARTED, Event.DEFERRED, Event.RESUMED, Event.SETTLED):
        assert step(state(Phase.COMMITTED, intended=THREE), Happened(event))[0].intended == THREE


@pytest.mark.parametrize("reason", sorted(REASONS[Phase.FETCHING]))
def test_what_has_come_stays_where_the_reason_may_pass(reason):
    _, effects = step(state(Phase.FETCHING), Happened(Event.FAILED, "because", reason))
    may_pass = reason in (Reason.DOWNLOAD_FAILED, Reason.METADATA_EXPIRED, Reason.STORAGE_FULL)
    assert effects == (() if may_pass else (Effect.DISCARD,))
