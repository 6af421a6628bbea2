"""The watch over what has begun to serve: what it is held against, what it is excused, and when it ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from support import hands, published, whole_device
from support.walks import Step, Walk, walked

from edged.bundle.manifest import Manifest, Requires
from edged.errors import Code, EdgedError
from edged.system.hardware import Hardware
from edged.types import Limits, Outcome
from edged.update import inventory, soak, watch
from edged.update import plan as plans
from edged.update.blame import of_the_device
from edged.update.machine import Event, Phase, Record
from edged.update.reasons import QUARANTINES, Reason
from edged.update.records import Transition

BEGUN: list[Step] = [("plan", ("a", 2)), ("until", ("a", Phase.SOAKING))]


@pytest.fixture(autouse=True)
def single_requests(monkeypatch) -> None:
    monkeypatch.setattr(hands, "_CALLS", 1)


def ask(walking: Walk, revision: int, count: int, *, ok: bool = True, took_s: float = 0.01) -> None:
    """Requests that reach a revision, of which each has the same end."""
    code = "" if ok else "inference_failed"
    outcomes = walking.life.shop.outcomes
    walking.life.do(lambda: [outcomes.take(Outcome("a", revision, ok, code, took_s)) for _ in range(count)])


def kill(walking: Walk, key: tuple[str, int]) -> None:
    """Ends its worker."""
    found = [each for each in walking.life.hands if each.key == key]
    assert found
    walking.life.do(lambda: [each.end("killed by SIGKILL") for each in found])


def hang(walking: Walk, key: tuple[str, int]) -> None:
    """Its worker does not answer, and is ended."""
    (found,) = [each for each in walking.life.hands if each.key == key]
    found.verdict = EdgedError(Code.WORKER_HANG, "it does not answer")
    kill(walking, key)


def soak_s(revision: int) -> float:
    """The longest time of its soak."""
    return published.manifest("a", revision).acceptance.soak.max_s


async def no_process(*_: object) -> NoReturn:
    raise OSError(errno.EAGAIN, "no process can be made")


def end_of_soak(walking: Walk) -> Transition:
    return [each for each in walking.life.journal.history("a") if each.before == Phase.SOAKING != each.after][-1]


@pytest.fixture(params=["stays up", "restart", "cut"])
def soaking(request, tmp_path: Path) -> Iterator[Walk]:
    """A device whose revision 2 soaks, after a predecessor with a long record; its daemon may have begun anew since."""
    with walked(tmp_path, [("sleep", (2.0,))]) as walking:
        ask(walking, 1, 3000)
        for step in BEGUN:
            walking.take(step)
        if request.param != "stays up":
            walking.take((request.param, ()))
            walking.take(("sleep", (1.0,)))
        yield walking


class TestTheRecordOfThePredecessor:
    def test_says_how_often_a_revision_may_err_in_each_life_of_the_daemon(self, soaking: Walk):
        for at in range(150):  # of errors that its author allows, and its predecessor never made
            ask(soaking, 2, 1, ok=at % 7 > 0)
        soaking.take(("until", ("a", Phase.IDLE)))
        assert (end_of_soak(soaking).event, end_of_soak(soaking).reason) == (Event.FAILED, Reason.ERROR_RATE)

    def test_says_how_slow_it_may_be_in_each_life_of_the_daemon(self, soaking: Walk):
        for _ in range(25):
            ask(soaking, 2, 10, took_s=0.1)
            soaking.life.pass_time(1.0)
        soaking.take(("until", ("a", Phase.IDLE)))
        assert (end_of_soak(soaking).event, end_of_soak(soaking).reason) == (Event.FAILED, Reason.LATENCY_BUDGET)

    def test_is_over_with_the_soak(self, soaking: Walk):
        assert soaking.life.journal.states()["a"].held_against.requests == 3000
        soaking.take(("until", ("a", Phase.IDLE)))
        assert soaking.life.journal.states()["a"].held_against == Record()


class TestARevisionThatDoesNotComeUpAgain:
    """Nobody asks it anything."""

    @pytest.mark.parametrize("after_a_restart", [False, True])
    def test_is_sent_back_and_the_one_before_answers(self, tmp_path: Path, after_a_restart: bool):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            walking.outside.dying.add(("a", 2))
            if after_a_restart:
                walking.take(("restart", ()))
            else:
                kill(walking, ("a", 2))
            walking.life.pass_time(200.0)
            found = end_of_soak(walking)
            assert (found.event, found.reason) == (Event.FAILED, Reason.CRASH_LOOP)
            assert f"its worker ended {soak.CRASHES} times" in found.text
            assert walking.life.residency.routes["a"].serving == 1
            assert walking.life.residency.get("a", 1).ready

    def test_for_want_of_memory_is_not_committed_before_it_does(self, tmp_path: Path):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            ask(walking, 2, 3000)
            walking.outside.capacity = 1
            kill(walking, ("a", 2))
            walking.life.pass_time(soak_s(2) - 10.0)
            assert walking.life.agent.courses["a"].state.phase is Phase.SOAKING
            assert walking.life.residency.get("a", 1).ready
            told = inventory.explain(walking.life.agent, "a")
            assert any(line.startswith("it is not committed before it answers again") for line in told), told
            assert any("left for a; it is asked for again" in line for line in told), told
            walking.outside.calm()
            walking.life.pass_time(120.0)
            assert end_of_soak(walking).event == Event.PASSED
            walking.finish()

    @pytest.mark.parametrize("lacks", ["memory", "its device", "processes"])
    def test_for_want_of_what_the_device_may_have_again_goes_back_once_its_time_is_over(
        self, tmp_path: Path, lacks: str, monkeypatch
    ):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            if lacks == "memory":
                walking.outside.capacity = 1
            elif lacks == "its device":
                walking.outside.taken.add(("a", 2))
            else:
                monkeypatch.setattr(walking.life, "start_worker", no_process)
            kill(walking, ("a", 2))
            walking.life.pass_time(soak_s(2) + watch._SHORT_S + 20.0)
            assert (end_of_soak(walking).event, end_of_soak(walking).reason) == (
                Event.FAILED,
                Reason.INCOMPATIBLE_HARDWARE,
            )
            assert "no worker can be started for it here" in end_of_soak(walking).text
            assert not walking.life.journal.quarantined()
            assert walking.life.residency.routes["a"].serving == 1
            assert walking.life.residency.get("a", 1).ready

    def test_for_want_of_memory_for_a_while_does_not_go_back_at_once(self, tmp_path: Path):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            walking.life.pass_time(soak_s(2) - 5.0)
            walking.outside.capacity = 1
            kill(walking, ("a", 2))
            walking.life.pass_time(watch._SHORT_S / 2)
            walking.outside.calm()
            walking.life.pass_time(watch._SHORT_S)
            assert end_of_soak(walking).event == Event.UNPROVEN
            walking.finish()

    def test_for_want_of_memory_that_is_there_again_does_not_go_back_while_it_loads(self, tmp_path: Path):
        """However long that takes."""
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            walking.life.pass_time(soak_s(2) - 5.0)
            walking.outside.capacity = 1
            kill(walking, ("a", 2))
            walking.life.pass_time(watch._SHORT_S / 2)
            walking.outside.calm()
            walking.outside.load_s = 4 * watch._SHORT_S
            walking.life.pass_time(3 * watch._SHORT_S)
            assert walking.life.agent.courses["a"].state.phase is Phase.SOAKING
            walking.life.pass_time(3 * watch._SHORT_S)
            assert end_of_soak(walking).event == Event.UNPROVEN
            walking.finish()

    def test_since_somebody_unloaded_it_waits_for_whoever_did(self, tmp_path: Path):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN, ("unload", ("a",)), ("sleep", (600.0,))]) as walking:
            assert walking.life.agent.courses["a"].state.phase is Phase.SOAKING
            walking.take(("load", ("a", 2)))
            walking.take(("sleep", (10.0,)))
            assert end_of_soak(walking).event == Event.UNPROVEN
            walking.finish()


class TestASoakThatIsPaused:
    def test_counts_what_ends_its_worker_meanwhile(self, tmp_path: Path):
        """As a leak does: under the pressure that it makes the soak rests, and the kernel ends the worker."""
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            for _ in range(soak.CRASHES):
                walking.take(("press", (Limits(background_paused=True),)))
                walking.take(("sleep", (1.0,)))
                kill(walking, ("a", 2))
                walking.take(("sleep", (5.0,)))
                assert walking.life.residency.get("a", 2).ready
                walking.take(("press", (Limits(),)))
                walking.take(("sleep", (0.5,)))
            found = end_of_soak(walking)
            assert (found.event, found.reason) == (Event.FAILED, Reason.CRASH_LOOP)

    def test_keeps_no_more_of_that_than_condemns_it(self, tmp_path: Path):
        """A worker that ends again and again fills neither the disk nor, where that takes nothing, memory."""
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            walking.take(("press", (Limits(background_paused=True),)))
            walking.take(("sleep", (1.0,)))
            walking.outside.dying.add(("a", 2))
            kill(walking, ("a", 2))
            walking.life.pass_time(600.0)
            assert walking.life.residency.get("a", 2).deaths.crashes > soak.CRASHES
            kept = [each for each in walking.life.journal.history("a") if each.event == Event.CRASHED]
            assert len(kept) == walking.life.agent.courses["a"].state.crashes == soak.CRASHES
            walking.take(("press", (Limits(),)))
            walking.take(("sleep", (1.0,)))
            assert end_of_soak(walking).reason == Reason.CRASH_LOOP

    @pytest.mark.parametrize("ends", ["restart", "cut"])
    def test_remembers_what_ended_its_worker_meanwhile_after_a_start(self, tmp_path: Path, ends: str):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            for count in range(1, soak.CRASHES):
                walking.take(("press", (Limits(background_paused=True),)))
                walking.take(("sleep", (1.0,)))
                kill(walking, ("a", 2))
                walking.take(("sleep", (5.0,)))
                state = walking.life.agent.courses["a"].state
                assert (state.crashes, bool(state.deferred)) == (count, True)
                walking.take((ends, ()))
                walking.take(("sleep", (1.0,)))
                assert walking.life.agent.courses["a"].state.crashes == count
            kill(walking, ("a", 2))
            walking.take(("sleep", (1.0,)))
            found = end_of_soak(walking)
            assert (found.event, found.reason) == (Event.FAILED, Reason.CRASH_LOOP)
            assert f"its worker ended {soak.CRASHES} times" in found.text


def test_what_hung_before_its_soak_is_not_held_against_it(tmp_path: Path):
    """Somebody had it serve again meanwhile."""
    with walked(tmp_path, [("sleep", (2.0,)), ("plan", ("a", 2)), ("sleep", (60.0,))]) as walking:
        assert walking.life.agent.courses["a"].state.phase is Phase.IDLE
        walking.take(("load", ("a", 1)))
        walking.take(("sleep", (5.0,)))
        hang(walking, ("a", 1))
        walking.take(("sleep", (20.0,)))
        assert walking.life.residency.get("a", 1).deaths.hangs == 1
        for step in (("back", ("a", 1)), ("until", ("a", Phase.SOAKING)), ("sleep", (5.0,))):
            walking.take(step)
        assert walking.life.agent.courses["a"].state.phase is Phase.SOAKING
        hang(walking, ("a", 1))
        walking.take(("sleep", (2.0,)))
        assert end_of_soak(walking).reason == Reason.WORKER_HANG


def test_what_ends_a_worker_before_its_soak_is_not_counted_in_it(tmp_path: Path):
    steps: list[Step] = [("sleep", (2.0,)), ("hold", ("a",)), ("plan", ("a", 2)), ("until", ("a", Phase.SHADOW))]
    with walked(tmp_path, steps) as walking:
        kill(walking, ("a", 2))
        for step in (("sleep", (2.0,)), ("let_go", ()), ("until", ("a", Phase.SOAKING)), ("sleep", (2.0,))):
            walking.take(step)
        assert walking.life.agent.courses["a"].state.crashes == 0
        kill(walking, ("a", 2))
        walking.take(("sleep", (2.0,)))
        assert walking.life.agent.courses["a"].state.crashes == 1


class TestTheDevicesOwnFault:
    @pytest.mark.parametrize("manifest_too", [False, True])
    def test_at_a_start_is_not_held_against_the_revision(self, tmp_path: Path, manifest_too: bool):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            self._damage(walking, manifest_too=manifest_too)
            walking.take(("restart", ()))
            self._is_gone_back_on_and_comes_anew(walking)

    def test_while_it_soaks_is_not_held_against_the_revision(self, tmp_path: Path):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            self._damage(walking, manifest_too=False)
            kill(walking, ("a", 2))
            self._is_gone_back_on_and_comes_anew(walking)

    def _damage(self, walking: Walk, *, manifest_too: bool) -> None:
        if manifest_too:
            (walking.life.shop.library.store.path("a", 2) / "manifest.json").unlink()
        walking.outside.damaged.add(("a", 2))

    def _is_gone_back_on_and_comes_anew(self, walking: Walk) -> None:
        walking.life.pass_time(20.0)
        assert end_of_soak(walking).reason == Reason.DIGEST_MISMATCH
        assert not any(each.reason in QUARANTINES for each in walking.life.journal.history("a"))
        assert not walking.life.journal.quarantined()
        walking.finish()  # which mends it, and has it serve

    @pytest.mark.parametrize("short", ["its device is taken", "there is no memory"])
    def test_that_no_worker_can_be_started_again_is_not_held_against_the_revision(self, tmp_path: Path, short: str):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            self._be_short(walking, short)
            kill(walking, ("a", 2))
            walking.life.pass_time(2.0)
            self._find_no_worker(walking)
            walking.life.pass_time(2.0)
            assert end_of_soak(walking).reason == Reason.INCOMPATIBLE_HARDWARE
            assert "requests failed" in end_of_soak(walking).text
            assert ("it is taken" if walking.outside.taken else "left for a") in end_of_soak(walking).text
            assert not walking.life.journal.quarantined()
            assert walking.life.residency.routes["a"].serving == 1
            walking.outside.calm()
            walking.finish()
            assert walking.served >= {("a", 2)}

    def test_that_a_worker_could_not_be_started_excuses_no_errors_of_the_next(self, tmp_path: Path):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            self._be_short(walking, "its device is taken")
            kill(walking, ("a", 2))
            walking.life.pass_time(0.5)
            walking.outside.calm()
            walking.life.pass_time(10.0)
            ask(walking, 2, 20, ok=False)
            walking.life.pass_time(2.0)
            assert end_of_soak(walking).reason == Reason.ERROR_RATE
            assert walking.life.journal.quarantined()

    def test_excuses_no_ends_of_its_worker(self, tmp_path: Path):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            for _ in range(soak.CRASHES - 1):
                self._be_short(walking, "there is no memory")
                kill(walking, ("a", 2))
                walking.life.pass_time(0.5)
                resident = walking.life.residency.get("a", 2)
                assert of_the_device(resident, {}, Reason.ERROR_RATE)
                assert of_the_device(resident, {}, Reason.CRASH_LOOP) is None
                walking.outside.calm()
                walking.life.pass_time(10.0)
            kill(walking, ("a", 2))
            walking.life.pass_time(2.0)
            assert end_of_soak(walking).reason == Reason.CRASH_LOOP
            assert walking.life.journal.quarantined()

    def _be_short(self, walking: Walk, of: str) -> None:
        if of == "there is no memory":
            walking.outside.capacity = 0
        else:
            walking.outside.taken.add(("a", 2))

    def _find_no_worker(self, walking: Walk) -> None:
        outcome = Outcome("a", 2, False, Code.MODEL_UNAVAILABLE, 0.0)
        walking.life.do(lambda: [walking.life.shop.outcomes.take(outcome) for _ in range(20)])

    @pytest.mark.usefixtures("edgetpu")
    def test_of_its_accelerator_is_not_held_against_the_revision(self, tmp_path: Path):
        with walked(tmp_path, [("sleep", (2.0,)), *BEGUN]) as walking:
            life = walking.life
            life.do(lambda: life.residency.avoid({"edgetpu": "accelerator edgetpu has failed: it hangs"}))
            life.do(lambda: life.shop.outcomes.take(Outcome("a", 2, False, Code.WORKER_HANG, 30.0)))
            life.pass_time(20.0)
            assert end_of_soak(walking).reason == Reason.INCOMPATIBLE_HARDWARE
            assert "hung" in end_of_soak(walking).text
            assert "accelerator edgetpu has failed: it hangs" in end_of_soak(walking).text
            assert not life.journal.quarantined()
            life.do(lambda: life.residency.avoid({}))
            walking.finish()

    def test_of_an_accelerator_that_another_variant_runs_on_excuses_nothing(self, tmp_path: Path, edgetpu: list[str]):
        edgetpu.clear()  # it was pulled out before the start, and its variant passed over from the first
        steps: list[Step] = [
            ("sleep", (2.0,)),
            ("plan", ("a", 3)),
            ("until", ("a", Phase.SHADOW)),
            ("ask", ("a", True)),
        ]
        with walked(tmp_path, [*steps, ("until", ("a", Phase.SOAKING))]) as walking:
            life = walking.life
            life.do(lambda: life.residency.avoid({"edgetpu": "it is gone"}))
            life.do(lambda: life.shop.outcomes.take(Outcome("a", 3, False, Code.WORKER_HANG, 30.0)))
            life.pass_time(20.0)
            assert end_of_soak(walking).reason == Reason.WORKER_HANG
            assert life.journal.quarantined()


@pytest.fixture
def edgetpu(monkeypatch) -> list[str]:
    """The device's accelerators; revision 2 needs the one, and so does the best variant of revision 3."""
    there = ["edgetpu"]

    def manifest(model: str, revision: int) -> Manifest:
        found = published.manifest(model, revision)
        if (model, revision) not in (("a", 2), ("a", 3)):
            return found
        best = msgspec.structs.replace(found.variants[0], requires=Requires(accelerator="edgetpu"))
        return msgspec.structs.replace(found, variants=(best, *found.variants[1:]))

    monkeypatch.setattr(hands, "manifest", manifest)
    monkeypatch.setattr(whole_device, "Hardware", lambda name: Hardware(name, accelerators=frozenset(there)))
    return there


def test_what_the_hardware_cannot_run_is_tried_again_with_each_start_and_no_more(tmp_path: Path, edgetpu: list[str]):
    edgetpu.clear()
    with walked(tmp_path, [("sleep", (2.0,)), ("plan", ("a", 2)), ("sleep", (30.0,))]) as walking:
        (failed,) = [each for each in walking.life.journal.history("a") if each.reason]
        assert failed.reason == Reason.INCOMPATIBLE_HARDWARE
        assert not walking.life.journal.quarantined()
        walking.life.pass_time(86_400.0)
        assert "with the next start" in walking.life.agent.decisions["a"].why
        assert len([each for each in walking.life.journal.history("a") if each.reason]) == 1
        edgetpu.append("edgetpu")
        walking.take(("restart", ()))
        walking.finish()
        state = walking.life.agent.courses["a"].state
        assert state.serving is not None
        assert state.serving.revision == 2


class TestWhereThePlanForbidsTheUnproven:
    @pytest.fixture
    def allowed(self, monkeypatch) -> list[bool]:
        """Whether it is; the plan wants revision 2."""
        found = [False]

        async def bring_plan(*_: object) -> tuple[plans.Plan, dict[str, int]]:
            wanted = plans.ClassPlan(revision=2, allow_unproven=found[0])
            return plans.Plan(fleet="f", models={"a": {"c": wanted}}), {}

        monkeypatch.setattr(hands.Repository, "bring_plan", bring_plan)
        return found

    @pytest.fixture
    def quiet(self, tmp_path: Path, allowed: list[bool]) -> Iterator[Walk]:
        """A device that nobody asks anything, long after the longest time of its soak; that was half over at a stop."""
        assert not allowed[0]
        steps: list[Step] = [
            ("until", ("a", Phase.SOAKING)),
            ("sleep", (20.0,)),
            ("restart", ()),
            ("sleep", (900.0,)),
        ]
        with walked(tmp_path, [("sleep", (2.0,)), ("look", ()), *steps]) as walking:
            assert walking.life.agent.courses["a"].state.phase is Phase.SOAKING
            assert walking.life.residency.routes["a"].serving == 2
            yield walking

    def test_it_is_told_what_the_soak_waits_for(self, quiet: Walk):
        ask(quiet, 2, 2)
        ask(quiet, 2, 1, ok=False)  # which it has seen, and not answered
        told = [line for line in inventory.explain(quiet.life.agent, "a") if line.startswith("it has soaked for ")]
        assert told[0].endswith("has seen 3 of 10 requests, before which the plan does not let it be committed")

    def test_it_is_not_looked_at_each_second(self, quiet: Walk, looks: list[float]):
        looks.clear()
        quiet.take(("sleep", (900.0,)))
        assert 0 < len(looks) < 900 / 10

    def test_what_it_sees_is_looked_at_once_within_a_second(self, quiet: Walk, looks: list[float]):
        for second in range(1, 10):
            began_s = quiet.life.loop.now_s
            for _ in range(10 if second == 9 else 1):
                ask(quiet, 2, 1)
                quiet.life.pass_time(0.01)
            quiet.life.pass_time(1.2)
            assert len([at_s for at_s in looks if at_s > began_s]) in (1, 2)
        assert end_of_soak(quiet).event == Event.PASSED

    @pytest.fixture
    def looks(self, monkeypatch) -> list[float]:
        """When the soak was judged."""
        found: list[float] = []
        judge = soak.Soak.judge

        def told(judged: soak.Soak, now_s: float):
            found.append(now_s)
            return judge(judged, now_s)

        monkeypatch.setattr(soak.Soak, "judge", told)
        return found

    def test_a_soak_goes_on_until_it_has_seen_enough(self, quiet: Walk):
        ask(quiet, 2, 10)
        quiet.take(("sleep", (2.0,)))
        assert end_of_soak(quiet).event == Event.PASSED

    def test_a_soak_goes_on_until_the_plan_says_otherwise(self, quiet: Walk, allowed: list[bool]):
        allowed[0] = True
        quiet.take(("look", ()))
        quiet.take(("sleep", (2.0,)))
        assert end_of_soak(quiet).event == Event.UNPROVEN

    def test_what_errs_is_still_sent_back(self, quiet: Walk):
        for _ in range(20):
            ask(quiet, 2, 1, ok=False)
        quiet.take(("sleep", (2.0,)))
        assert (end_of_soak(quiet).event, end_of_soak(quiet).reason) == (Event.FAILED, Reason.ERROR_RATE)
