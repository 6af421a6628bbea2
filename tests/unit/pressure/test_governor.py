"""What the governor decides on traces whose right answer is known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import msgspec
import pytest

from edged.bundle.manifest import Degradation
from edged.pressure.governor import MEMORY, POWER, RESOURCES, STORAGE, THERMAL, Decision, Governor, State, senseless
from edged.pressure.policy import Policy
from edged.pressure.readings import Memory, Power, Readings, Stall, Storage, Temperature, Trip
from edged.types import Level, ModelLimits

POLICY = Policy()
TRIPS = (Trip("passive", 85.0), Trip("critical", 105.0))
MIB = 2**20


def decide(
    readings: Iterable[Readings], governor: Governor | None = None, every_s: float = 1.0, state: State | None = None
) -> list[Decision]:
    governor, state = governor or Governor(POLICY), state or State()
    found = []
    for number, each in enumerate(readings):
        state, decision = governor.decide(state, each, number * every_s)
        found.append(decision)
    return found


def hot(
    celsius: float, load: float = 1.0, trips: Sequence[Trip] = TRIPS, name: str = "soc", **more: object
) -> Readings:
    return Readings(load=load, temperatures=(Temperature(name, celsius, tuple(trips)),), **more)  # type: ignore[arg-type]


def thermal(decisions: Iterable[Decision]) -> list[Level]:
    return [each.levels[THERMAL] for each in decisions]


def changes(levels: Sequence[Level]) -> int:
    return sum(one is not other for one, other in itertools.pairwise(levels))


class TestHeat:
    def test_a_cool_device_gives_up_nothing(self):
        decisions = decide([hot(50 + number % 2) for number in range(600)])
        assert set(thermal(decisions)) == {Level.NOMINAL}
        assert {each.limits.duty for each in decisions} == {1.0}
        assert not any(each.limits.background_paused for each in decisions)

    def test_a_ramp_is_acted_on_before_it_arrives(self):
        """At 0.3 °C a second it is 10 °C below the set point when the horizon is."""
        decisions = decide([hot(50 + 0.3 * number) for number in range(110)])
        first = next(number for number, each in enumerate(decisions) if each.levels[THERMAL] is not Level.NOMINAL)
        assert 70 < 50 + 0.3 * first < 82
        assert decisions[-1].limits.duty < 0.7
        assert decisions[-1].limits.background_paused

    def test_a_step_to_the_trip_point_is_acted_on_at_once(self):
        decisions = decide([hot(60)] * 60 + [hot(88)] * 10)
        assert thermal(decisions)[59] is Level.NOMINAL
        assert decisions[62].limits.duty < 0.6
        assert decisions[-1].levels[THERMAL] in (Level.CRITICAL, Level.EMERGENCY)

    def test_beyond_it_nearly_everything_stops(self):
        decisions = decide([hot(60)] * 60 + [hot(92)] * 30)
        assert decisions[-1].levels[THERMAL] is Level.EMERGENCY
        assert decisions[-1].limits.duty == 0.05
        assert decisions[-1].limits.default.min_priority == 1

    def test_noise_below_the_set_point_changes_nothing(self):
        chance = random.Random(2)
        decisions = decide([hot(78 + chance.gauss(0, 1)) for _ in range(3600)])
        assert changes(thermal(decisions)) <= 1

    def test_noise_at_the_set_point_for_an_hour_changes_the_level_at_most_once_in_the_dwell_time(self):
        chance = random.Random(3)
        levels = thermal(decide([hot(82 + chance.gauss(0, 1.5), chance.random()) for _ in range(3600)]))
        times = [at for at, (one, other) in enumerate(itertools.pairwise(levels)) if one is not other]
        assert all(after - before >= POLICY.dwell_s for before, after in itertools.pairwise(times))

    def test_when_it_is_cool_again_everything_is_back_in_the_dwell_time(self):
        decisions = decide([hot(60)] * 60 + [hot(84.5)] * 60 + [hot(50, 0.2)] * 120)
        assert decisions[100].levels[THERMAL] is not Level.NOMINAL
        back = next(number for number in range(121, 240) if decisions[number].levels[THERMAL] is Level.NOMINAL)
        assert back - 120 < POLICY.dwell_s + 30  # and the smoothing
        assert decisions[-1].limits.duty > 0.9

    def test_what_the_kernel_throttles_is_held_back_until_it_does_no_more(self):
        decisions = decide([hot(80)] * 30 + [hot(80, throttled=("cpufreq-cpu0",))] * 30 + [hot(60)] * 120)
        assert decisions[31].levels[THERMAL] is Level.CRITICAL
        assert decisions[40].limits.duty < 0.3
        assert any("cpufreq-cpu0" in cause.text for cause in decisions[40].causes)
        assert decisions[-1].levels[THERMAL] is Level.NOMINAL

    def test_what_a_throttled_load_does_is_not_learned(self):
        """It is cooler at full load then, and would be hot again at once."""
        before = [hot(60 + number) for number in range(28)] + [hot(88)] * 20
        decisions = decide([*before, *[hot(78, throttled=("cpufreq-cpu0",))] * 120, hot(78)])
        assert decisions[-1].limits.duty < 0.8

    def test_a_level_ends_cooler_than_it_began(self):
        decisions = decide([hot(82.5, 0.0)] * 30 + [hot(80.5, 0.0)] * 200 + [hot(78, 0.0)] * 200)
        assert thermal(decisions)[229] is Level.ELEVATED
        assert thermal(decisions)[-1] is Level.NOMINAL

    def test_the_hottest_sensor_decides(self):
        both = Readings(load=1.0, temperatures=(Temperature("cpu", 50, TRIPS), Temperature("gpu", 84.5, TRIPS)))
        assert decide([both] * 30)[-1].limits.duty < 0.7


class TestTripPoints:
    def acts_at(self, *trips: Trip) -> float:
        """The temperature at which it leaves nominal, when it is reached in small steps that last."""
        for celsius in range(40, 130):
            if decide([hot(celsius, 0.5, trips)] * 5)[-1].levels[THERMAL] is not Level.NOMINAL:
                return celsius
        raise AssertionError

    def test_none_leave_it_to_the_settings(self):
        assert self.acts_at() == POLICY.throttle_c - POLICY.margin_c

    @pytest.mark.parametrize(("critical_c", "set_c"), [(110.0, 82), (90.0, 77)])
    def test_where_none_throttles_the_settings_hold_and_the_end_is_far_all_the_same(
        self, critical_c: float, set_c: float
    ):
        assert self.acts_at(Trip("critical", critical_c)) == set_c

    def test_in_any_order(self):
        passive, hot_, critical = Trip("passive", 90.0), Trip("hot", 95.0), Trip("critical", 110.0)
        for order in itertools.permutations((passive, hot_, critical)):
            assert self.acts_at(*order) == 87

    def test_a_fan_is_no_reason(self):
        assert self.acts_at(Trip("active", 45.0), Trip("passive", 90.0)) == 87

    @pytest.mark.parametrize("celsius", [0.0, -274.0])
    def test_what_is_switched_off_is_left_out(self, celsius: float):
        trips = (Trip("passive", celsius), Trip("critical", 90.0))
        assert self.acts_at(*trips) == 77
        assert decide([hot(50, 0.5, trips)])[-1].distrusted == {}

    @pytest.mark.parametrize("celsius", [300.0, 20.0])
    def test_what_cannot_be_is_left_out_and_told(self, celsius: float):
        trips = (Trip("passive", celsius), Trip("critical", 90.0))
        assert self.acts_at(*trips) == 77
        (doubt,) = decide([hot(50, 0.5, trips)])[-1].distrusted.values()
        assert f"{celsius:g} °C" in doubt

    def test_one_that_ends_the_device_before_it_throttles_is_kept_below_and_told(self):
        trips = (Trip("passive", 100.0), Trip("critical", 90.0))
        assert self.acts_at(*trips) == 77
        (doubt,) = decide([hot(50, 0.5, trips)])[-1].distrusted.values()
        assert "before it throttles" in doubt


class TestSensorsThatFail:
    @pytest.mark.parametrize("lie", [-89.0, 0.0, 255.0, 130.0])
    def test_one_that_lies_is_told_and_the_other_decides(self, lie: float):
        def both(celsius: float) -> Readings:
            return Readings(load=0.5, temperatures=(Temperature("a", celsius, TRIPS), Temperature("b", 55, TRIPS)))

        decisions = decide([both(50)] * 30 + [both(lie)] * 10)
        assert list(decisions[-1].distrusted) == ["a"]
        assert decisions[-1].levels[THERMAL] is Level.NOMINAL
        assert decisions[-1].limits.duty == 1.0

    def test_one_that_is_stuck_hot_is_told_and_given_up(self):
        """Its load goes up and down, and it says the same."""
        readings = [hot(84.5, float(number // 100 % 2)) for number in range(900)]
        decisions = decide(readings)
        assert decisions[100].limits.duty < 1
        assert "exactly 84.5" in decisions[-1].distrusted["soc"]

    def test_a_zone_that_vanishes_is_told_and_another_decides(self):
        both = Readings(load=0.5, temperatures=(Temperature("a", 50, TRIPS), Temperature("b", 55, TRIPS)))
        for rest in (hot(55, 0.5, name="b"), Readings(load=0.5, temperatures=(Temperature("a"), Temperature("b", 55)))):
            decisions = decide([both] * 30 + [rest] * 10)
            assert list(decisions[-1].distrusted) == ["a"]
            assert decisions[-1].levels[THERMAL] is Level.NOMINAL

    def test_a_device_that_goes_blind_is_careful_and_serves_and_is_updated(self):
        decisions = decide([hot(60)] * 30 + [Readings(load=1.0)] * 100)
        assert set(thermal(decisions)[30:]) == {Level.NOMINAL}
        assert {each.limits.duty for each in decisions[30:]} == {0.7}
        assert not any(each.limits.background_paused for each in decisions)

    def test_what_goes_blind_in_the_heat_computes_no_more_than_before(self):
        decisions = decide([hot(60)] * 60 + [hot(92)] * 30 + [Readings(load=1.0)] * 100)
        assert {each.limits.duty for each in decisions[90:]} == {0.05}
        assert decisions[-1].levels[THERMAL] is Level.NOMINAL

    @pytest.mark.parametrize("lie", [0.0, -89.0, 255.0, 27.8])
    def test_a_device_whose_only_sensor_never_told_a_temperature_is_as_one_without(self, lie: float):
        decisions = decide([hot(lie, float(number // 100 % 2)) for number in range(900)])
        assert list(decisions[-1].distrusted) == ["soc"]
        assert set(thermal(decisions)) == {Level.NOMINAL}
        assert {each.limits.duty for each in decisions} == {1.0}

    def test_one_that_is_stuck_after_it_moved_has_gone_blind(self):
        moves = [hot(60 + number % 2, 0.5) for number in range(30)]
        decisions = decide(moves + [hot(55, float(number // 100 % 2)) for number in range(900)])
        assert "exactly 55" in decisions[-1].distrusted["soc"]
        assert decisions[-1].limits.duty == 0.7

    def test_a_device_that_never_saw_anything_is_not_held_back(self):
        decisions = decide([Readings(load=1.0)] * 100)
        assert set(thermal(decisions)) == {Level.NOMINAL}
        assert decisions[-1].limits.duty == 1.0

    def test_one_that_is_back_is_believed_again(self):
        decisions = decide([hot(60)] * 30 + [Readings(load=1.0)] * 10 + [hot(61)] * 100)
        assert decisions[-1].distrusted == {}
        assert decisions[-1].levels[THERMAL] is Level.NOMINAL


class TestWhatSpeaksAgainstADevice:
    """Which readings of an accelerator's sensor say that it has failed, of those that are not believed."""

    def last(self, readings: Iterable[Readings]) -> tuple[Decision, dict[str, str]]:
        governor, state = Governor(POLICY), State()
        for number, each in enumerate(readings):
            state, decision = governor.decide(state, each, float(number))
            against = senseless(state, each)
        return decision, against

    def gpu(self, celsius: float | None, load: float = 0.5) -> Readings:
        return Readings(load=load, temperatures=(Temperature("nvidia0:temperature", celsius), Temperature("soc", 50)))

    def test_is_no_degree_that_stays_while_models_elsewhere_work(self):
        idle = [self.gpu(35, 0.0)] * 5 + [self.gpu(36, 0.8 * (200 <= number < 400)) for number in range(900)]
        decision, against = self.last(idle)
        assert "exactly 36" in decision.distrusted["nvidia0:temperature"]
        assert against == {}

    def test_is_no_jump(self):
        decision, against = self.last([self.gpu(30)] * 5 + [self.gpu(85)] * 5)
        assert "jumped" in decision.distrusted["nvidia0:temperature"]
        assert against == {}

    @pytest.mark.parametrize(("celsius", "why"), [(-89.0, "cannot be"), (0.0, "exactly 0 °C"), (None, "vanished")])
    def test_is_what_cannot_be_however_long_it_is_said(self, celsius: float | None, why: str):
        known = [self.gpu(40 + number % 2) for number in range(5)]
        decision, against = self.last(known + [self.gpu(celsius, float(number // 100 % 2)) for number in range(900)])
        assert why in decision.distrusted["nvidia0:temperature"]
        assert list(against) == ["nvidia0:temperature"]
        assert why in against["nvidia0:temperature"]


class TestMemory:
    def level(self, *readings: Readings) -> Level:
        return decide(readings)[-1].levels[MEMORY]

    @pytest.mark.parametrize(
        ("left_mib", "level"),
        [(4000, Level.NOMINAL), (128, Level.NOMINAL), (127, "elevated"), (63, "critical"), (31, "emergency")],
    )
    def test_by_what_is_left_against_the_reserve(self, left_mib: int, level: Level):
        assert self.level(Readings(memory=Memory(8000 * MIB, left_mib * MIB))) == level

    def test_a_small_group_is_held_to_a_quarter_of_its_own(self):
        assert self.level(Readings(memory=Memory(200 * MIB, 60 * MIB))) is Level.NOMINAL
        assert self.level(Readings(memory=Memory(200 * MIB, 49 * MIB))) is Level.ELEVATED

    def test_triggers(self):
        assert self.level(Readings(fired=("memory.some",))) is Level.ELEVATED
        assert self.level(Readings(fired=("memory.watch",))) is Level.ELEVATED
        assert self.level(Readings(fired=("memory.full",))) is Level.CRITICAL

    def test_a_process_that_the_kernel_ended(self):
        before, after = (Readings(memory=Memory(8000 * MIB, 4000 * MIB, kills)) for kills in (5, 6))
        assert self.level(before, before) is Level.NOMINAL, "what was before the start is no matter now"
        assert self.level(before, after) is Level.CRITICAL

    def test_after_relief_all_is_back_in_the_dwell_time(self):
        decisions = decide([Readings(fired=("memory.full",))] + [Readings()] * 61)
        assert decisions[59].levels[MEMORY] is Level.CRITICAL
        assert decisions[60].levels[MEMORY] is Level.NOMINAL


class TestPower:
    @pytest.mark.parametrize(
        ("power", "level"),
        [
            (Power(mains=True, charge_percent=3), Level.NOMINAL),
            (Power(mains=False, charge_percent=50), Level.NOMINAL),
            (Power(mains=False, charge_percent=15), Level.ELEVATED),
            (Power(mains=False, charge_percent=8), Level.CRITICAL),
            (Power(charge_percent=3), Level.EMERGENCY),
            (Power(undervoltage=True), Level.ELEVATED),
        ],
    )
    def test_level(self, power: Power, level: Level):
        assert decide([Readings(power=power)])[-1].levels[POWER] is level


class TestStorage:
    @pytest.mark.parametrize(
        ("storage", "level"),
        [
            (Storage(10_000 * MIB, 5000 * MIB, 1000, 900), Level.NOMINAL),
            (Storage(10_000 * MIB, 500 * MIB, 1000, 900), Level.ELEVATED),
            (Storage(10_000 * MIB, 200 * MIB, 1000, 900), Level.CRITICAL),
            (Storage(10_000 * MIB, 0, 1000, 900), Level.EMERGENCY),
            (Storage(10_000 * MIB, 5000 * MIB, 1000, 15), Level.ELEVATED),
            (Storage(10_000 * MIB, 5000 * MIB, 1000, 5), Level.CRITICAL),
            (Storage(10_000 * MIB, 5000 * MIB, 1000, 0), Level.EMERGENCY),
            (Storage(10_000 * MIB, 5000 * MIB), Level.NOMINAL),  # inodes made as they are needed
            (Storage(100 * MIB, 60 * MIB, 1000, 900), Level.NOMINAL),  # smaller than the reserve
            (Storage(10_000 * MIB, 5000 * MIB, 1000, 900, writable=False), Level.EMERGENCY),
        ],
    )
    def test_level_saves_space_and_pauses_nothing_that_takes_none(self, storage: Storage, level: Level):
        decision = decide([Readings(storage=storage)])[-1]
        assert decision.levels[STORAGE] is level
        assert not decision.limits.background_paused
        assert decision.limits.save_space is (level is not Level.NOMINAL)
        assert decision.limits.journal_only is (level in (Level.CRITICAL, Level.EMERGENCY))
        assert decision.limits.level is Level.NOMINAL

    def test_level_beside_that_of_another_resource(self):
        decision = decide([Readings(storage=Storage(10_000 * MIB, 500 * MIB, 1000, 900), fired=("cpu.some",))])[-1]
        assert decision.limits.background_paused
        assert decision.limits.save_space

    def test_a_day_that_writes_more_than_its_budget(self):
        governor = Governor(msgspec.structs.replace(POLICY, write_budget_bytes=100 * MIB))

        def written(mib: float) -> Readings:
            return Readings(storage=Storage(10_000 * MIB, 5000 * MIB, written_bytes=int(mib * MIB)))

        minute_mib = 100 / 1440
        # A child that is reaped while the count is read is missing in it for once.
        dip = decide([written(60), written(110), written(20), *[written(110)] * 3], governor, 60.0)
        assert {each.levels[STORAGE] for each in dip} == {Level.NOMINAL}
        steady = decide([written(number * minute_mib) for number in range(3000)], governor, 60.0)
        assert {each.levels[STORAGE] for each in steady} == {Level.NOMINAL}
        burst = decide([written(7), written(110), *[written(110)] * 300], governor, 60.0)
        assert burst[1].levels[STORAGE] is Level.ELEVATED
        assert burst[-1].levels[STORAGE] is Level.NOMINAL, "it drains off"


LADDER = {
    "digits": {
        Level.ELEVATED: Degradation(variant="int8"),
        Level.EMERGENCY: Degradation(variant="tiny", max_batch_size=2, max_rate=5.0, min_priority=1),
    },
    "silent": {},
}


class TestLimits:
    def limits(self, fired: str):
        return decide([Readings(fired=(fired,))], Governor(POLICY, LADDER))[-1].limits

    def test_the_manifest_decides_for_its_model_and_holds_on(self):
        assert self.limits("memory.some").of("digits") == ModelLimits(variant="int8")
        assert self.limits("memory.full").of("digits") == ModelLimits(variant="int8")

    def test_where_it_says_nothing_a_default_ladder_does(self):
        limits = self.limits("memory.full")
        assert limits.of("silent") == limits.default == ModelLimits(max_batch_size=4)
        assert limits.unload_idle
        assert not self.limits("memory.some").unload_idle

    def test_at_the_hardest_level(self):
        readings = Readings(memory=Memory(8000 * MIB, 10 * MIB))
        limits = decide([readings], Governor(POLICY, LADDER))[-1].limits
        assert limits.of("digits") == ModelLimits(variant="tiny", max_batch_size=2, max_rate=5.0, min_priority=1)
        assert limits.of("silent").min_priority == 1

    def test_stalls_of_processors_and_disks_pause_background_work_alone(self):
        for readings in (
            Readings(fired=("cpu.some",)),
            Readings(fired=("io.some",)),
            Readings(stalls={"io": Stall(some_percent=90.0)}),
            Readings(stalls={"cpu": Stall(full_percent=90.0)}),
        ):
            limits = decide([readings])[-1].limits
            assert limits.background_paused
            assert limits.level is Level.NOMINAL


def test_every_decision_names_its_causes():
    decision = decide([hot(84.5, fired=("memory.full",))] * 5)[-1]
    assert {cause.resource for cause in decision.causes} == {THERMAL, MEMORY}
    assert all(cause.level is not Level.NOMINAL for cause in decision.causes)
    assert set(decision.levels) == set(RESOURCES)


def test_it_keeps_no_state_of_its_own():
    """The same readings from the same state give the same, in any order of asking."""
    governor = Governor(POLICY)
    state, _ = governor.decide(State(), hot(70), 0.0)
    one = governor.decide(state, hot(80), 1.0)
    governor.decide(state, hot(20), 1.0)
    assert governor.decide(state, hot(80), 1.0) == one
