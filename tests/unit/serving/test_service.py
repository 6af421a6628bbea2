"""The use cases of serving: who answers, when nobody does, and what is counted."""

import asyncio
import re
from pathlib import Path

import pytest
from support.standins import Clock, Resident, as_it_is, call, manifest, settle

import edged
from edged import clock
from edged.bundle.manifest import Queue
from edged.changes import Changes
from edged.config.settings import Serving
from edged.errors import Code, EdgedError
from edged.models.residency import Residency
from edged.models.states import State
from edged.serving import service as under_test
from edged.serving.request import Contents, Place
from edged.serving.service import Service
from edged.serving.statistics import REFUSALS, BatchSize, Duration
from edged.types import Limits, ModelLimits
from edged.worker.messages import Failed, Form


class Bench:
    """A service over stand-in residents."""

    def __init__(self, residents, settings):
        self.clock = Clock()
        self.changes = Changes()
        self.residency = Residency(self.changes)
        for resident in residents:
            self.residency.add(resident)
        self.service = Service(self.residency, settings)
        self.callers = []

    def send(self, request=None, remaining_s=None):
        caller = asyncio.create_task(self.service.infer(request or call(), remaining_s, as_it_is))
        self.callers.append(caller)
        return caller

    def asked(self):
        return [asked for resident in self.residency.all() if resident.worker for asked in resident.worker.asked]

    async def answered(self, request=None):
        caller = self.send(request)
        await settle()
        self.answer_all()
        return await caller

    def answer_all(self):
        for asked in self.asked():
            if not asked.reply.done():
                asked.answer()

    async def end(self):
        for caller in self.callers:
            caller.cancel()
        self.answer_all()
        await asyncio.gather(*self.callers, return_exceptions=True)
        for _ in range(5):
            await settle()
            self.answer_all()


@pytest.fixture
async def bench():
    made = []

    def make(*residents, **settings):
        made.append(Bench(residents or (Resident(),), Serving(**settings)))
        return made[-1]

    yield make
    for each in made:
        await each.end()


async def refusal(caller):
    """What a caller is told, at once."""
    await settle()
    assert caller.done()
    with pytest.raises(EdgedError) as caught:
        await caller
    return caught.value


def revisions(*numbers, name="doubles"):
    return [Resident(manifest(name=name, revision=number)) for number in numbers]


class TestWhoAnswers:
    @pytest.mark.parametrize(("version", "revision"), [("", 7), ("7", 7), ("3", 3)])
    async def test_the_revision_that_is_named_or_else_the_one_that_serves(self, bench, version, revision):
        bench = bench(*revisions(3, 7))
        assert (await bench.answered(call(version=version))).revision == revision

    async def test_each_model_for_itself(self, bench):
        bench = bench(*revisions(1, name="one"), *revisions(2, name="other"))
        assert (await bench.answered(call(model="other"))).model == "other"
        assert (await bench.answered(call(model="one"))).model == "one"

    @pytest.mark.parametrize(
        ("model", "version", "code"),
        [
            ("none", "", Code.MODEL_NOT_FOUND),
            ("doubles", "9", Code.REVISION_NOT_FOUND),
            ("doubles", "2", Code.REVISION_NOT_SERVED),
            ("doubles", "latest", Code.INVALID_ARGUMENT),
        ],
    )
    async def test_nobody(self, bench, model, version, code):
        bench = bench(*revisions(3))
        assert (await refusal(bench.send(call(model=model, version=version)))).code is code
        with pytest.raises(EdgedError) as caught:
            bench.service.model_ready(model, version)
        assert caught.value.code is code

    async def test_the_versions_that_may_be_named(self, bench):
        assert bench(*revisions(3, 7)).service.versions("doubles") == (3, 7)


class TestWhetherAModelIsProven:
    async def test_by_an_answer_of_late(self, bench):
        bench = bench(*revisions(3))
        resident = bench.residency.get("doubles", 3)
        assert not bench.service.proven(resident, 1.0), "nobody has asked yet"
        await bench.answered(call())
        assert bench.service.proven(resident, 600.0)
        assert not bench.service.proven(resident, 0.0), "that was before"

    async def test_not_by_one_that_is_an_error(self, bench):
        bench = bench(*revisions(3))
        caller = bench.send()
        await settle()
        assert not bench.service.proven(bench.residency.get("doubles", 3), 1.0), "it has only just begun"
        bench.asked()[0].answer(failed={0: Failed("inference_failed", "it broke", "")})
        await refusal(caller)
        assert not bench.service.proven(bench.residency.get("doubles", 3), 1.0)

    async def test_is_not_known_during_a_batch_that_takes_longer_than_that(self, bench):
        bench = bench(*revisions(3))
        bench.send()
        await settle()
        assert bench.service.proven(bench.residency.get("doubles", 3), 0.0) is None


class TestARequestThatIsWrong:
    async def test_is_refused_before_it_waits(self, bench):
        bench = bench()
        error = await refusal(bench.send(call(rows=9)))
        assert error.code is Code.INVALID_TENSOR
        assert bench.asked() == []

    async def test_is_refused_for_its_contents_even_when_its_metadata_is_known(self, bench):
        bench = bench()
        await bench.answered()
        wrong = call()
        wrong.contents = call(columns=3).contents
        assert (await refusal(bench.send(wrong))).code is Code.INVALID_TENSOR

    async def test_is_told_what_is_wrong_with_it_even_while_the_model_is_not_ready(self, bench):
        bench = bench(Resident(state=State.LOADING))
        assert (await refusal(bench.send(call(rows=9)))).code is Code.INVALID_TENSOR

    async def test_metadata_of_any_number_of_kinds_is_forgotten_again(self, bench, monkeypatch):
        monkeypatch.setattr(under_test, "_SIGNATURES_KEPT", 3)
        bench = bench()
        for columns in (1, 2, 3, 4, 5, 1):
            assert (await bench.answered(call(columns=columns))).outputs[0].shape == (1, columns)
        assert all(len(known) <= 3 for known in bench.service._admitted.values())


class TestAModelThatIsNotReady:
    @pytest.mark.parametrize(
        ("state", "reason", "words"),
        [
            (State.LOADING, "", "model 'doubles' is loading"),
            (State.LOADING, "its worker ended", "model 'doubles' is loading: its worker ended"),
            (State.FAILED, "no variant can run here", "model 'doubles' is failed: no variant can run here"),
            (State.UNLOADING, "the daemon stops", "model 'doubles' is unloading: the daemon stops"),
        ],
    )
    async def test_says_so_at_once(self, bench, state, reason, words):
        bench = bench(Resident(state=state, reason=reason))
        error = await refusal(bench.send())
        assert (error.code, error.message) == (Code.MODEL_UNAVAILABLE, words)
        assert not bench.service.model_ready("doubles", "")
        assert not bench.service.ready()

    async def test_answers_again_when_it_is(self, bench):
        resident = Resident(state=State.LOADING)
        bench = bench(resident)
        await refusal(bench.send())
        resident.state = State.READY
        assert bench.service.ready()
        assert bench.service.model_ready("doubles", "")
        assert (await bench.answered()).model == "doubles"

    async def test_makes_the_daemon_not_ready_while_others_answer(self, bench):
        bench = bench(Resident(), Resident(manifest(name="other"), state=State.FAILED))
        assert not bench.service.ready()
        assert bench.service.model_ready("doubles", "")
        assert (await bench.answered()).model == "doubles"

    async def test_an_older_revision_does_not_matter_to_readiness(self, bench):
        older = Resident(manifest(revision=1), state=State.UNAVAILABLE)
        assert bench(older, Resident(manifest(revision=2))).service.ready()

    async def test_no_model_is_one_that_is_not_ready(self):
        assert Service(Residency(Changes()), Serving()).ready()


class TestHowLongARequestMayTake:
    @pytest.mark.parametrize(
        ("remaining_s", "timeout_s", "holds_s"),
        [
            pytest.param(None, None, 60, id="neither is given: the setting"),
            pytest.param(5, None, 5, id="the transport's"),
            pytest.param(None, 7, 7, id="the request's own"),
            pytest.param(5, 7, 5, id="the transport's, which ends first"),
            pytest.param(7, 5, 5, id="the request's own, which ends first"),
            pytest.param(3600, None, 3600, id="the transport's, although the setting is less"),
        ],
    )
    async def test_whichever_ends_first(self, bench, remaining_s, timeout_s, holds_s):
        bench = bench(default_timeout_s=60)
        caller = bench.send(call(timeout_s=timeout_s), remaining_s)
        await settle()
        bench.clock.forward(holds_s - 1)
        await settle()
        assert not caller.done()
        bench.clock.forward(1)
        assert (await refusal(caller)).code is Code.DEADLINE_EXCEEDED

    @pytest.mark.parametrize(
        ("remaining_s", "timeout_s"),
        [(5, None), (None, 5), (7, 5), (None, None)],
        ids=["transport", "own", "both", "none"],
    )
    async def test_holds_for_both_attempts_where_the_revision_before_answers_for_a_new_one(
        self, bench, remaining_s, timeout_s
    ):
        old, new = revisions(1, 2)
        bench = bench(old, default_timeout_s=5)
        bench.residency.add_on_trial(new)
        bench.residency.flip("doubles", 2, keep=True)
        caller = bench.send(call(timeout_s=timeout_s), remaining_s)
        await settle()
        bench.clock.forward(4)
        new.worker.asked[0].fail(EdgedError(Code.INFERENCE_FAILED, "the engine failed"))
        await settle()
        assert len(old.worker.asked) == 1
        assert not caller.done()
        bench.clock.forward(1)
        assert (await refusal(caller)).code is Code.DEADLINE_EXCEEDED

    async def test_none_is_left(self, bench):
        bench = bench()
        assert (await refusal(bench.send(remaining_s=0.0))).code is Code.DEADLINE_EXCEEDED
        assert bench.asked() == []


class TestStopping:
    async def test_what_comes_is_refused(self, bench):
        bench = bench()
        assert await bench.service.drain(5)
        assert (await refusal(bench.send())).code is Code.SHUTTING_DOWN
        assert not bench.service.ready()
        assert not bench.service.model_ready("doubles", "")

    async def test_whoever_watches_is_told(self, bench):
        bench = bench()
        before = bench.changes.count
        await bench.service.drain(5)
        assert bench.changes.count > before

    async def test_what_is_here_is_answered(self, bench):
        bench = bench(*revisions(1, name="one"), *revisions(2, name="other"))
        callers = [bench.send(call(model=model)) for model in ("one", "other", "other")]
        await settle()
        drained = asyncio.create_task(bench.service.drain(5))
        await settle()
        assert not drained.done()
        bench.answer_all()
        assert await drained
        assert [(await caller).model for caller in callers] == ["one", "other", "other"]

    async def test_what_is_not_answered_in_time_is_told_so(self, bench):
        bench = bench()
        executing = bench.send()
        await settle()
        waiting = bench.send()
        await settle()
        drained = asyncio.create_task(bench.service.drain(5))
        await settle()
        bench.clock.forward(5)
        assert not await drained
        assert [(await refusal(caller)).code for caller in (executing, waiting)] == [Code.SHUTTING_DOWN] * 2
        await settle()
        assert len(bench.asked()) == 1, "nothing more is executed"

    async def test_it_may_take_no_time_at_all(self, bench):
        bench = bench()
        caller = bench.send()
        await settle()
        assert not await bench.service.drain(0)
        assert (await refusal(caller)).code is Code.SHUTTING_DOWN


class TestSettings:
    async def test_new_bounds_hold_at_once(self, bench):
        bench = bench(queue_requests=5)
        bench.send()
        await settle()
        bench.send()
        await settle()
        bench.service.apply(Serving(queue_requests=1))
        assert (await refusal(bench.send())).code is Code.OVERLOADED

    async def test_a_new_timeout_holds_for_what_comes(self, bench):
        bench = bench(default_timeout_s=60)
        bench.service.apply(Serving(default_timeout_s=5))
        caller = bench.send()
        await settle()
        bench.clock.forward(5)
        assert (await refusal(caller)).code is Code.DEADLINE_EXCEEDED

    async def test_bytes_are_given_in_mib(self, bench):
        bench = bench(queue_mib=3)
        resident = bench.residency.all()[0]
        assert bench.service.queue(resident).bounds.size_bytes == 3 * 1024 * 1024


# What a request can meet, and how it is counted: as the model's failure, or as nobody's.
FAILURES = {Code.INFERENCE_FAILED, Code.WORKER_CRASHED, Code.WORKER_HANG, Code.INTERNAL}
NOBODYS = {
    Code.MALFORMED_REQUEST,
    Code.INVALID_TENSOR,
    Code.INVALID_ARGUMENT,
    Code.UNSUPPORTED,
    Code.REVISION_NOT_FOUND,
    Code.REVISION_NOT_SERVED,
    Code.REGION_NOT_FOUND,
    Code.REGION_UNUSABLE,
    Code.MODEL_UNAVAILABLE,
    Code.OVERLOADED,
    Code.ANSWER_TOO_LARGE,
    Code.DEADLINE_EXCEEDED,
    Code.CANCELLED,
    Code.SHUTTING_DOWN,
}
# What the same code meets when a model is loaded, or a region is registered, and no request does.
ELSEWHERE = {
    Code.LOAD_FAILED,
    Code.DERIVED_UNUSABLE,
    Code.DIGEST_MISMATCH,
    Code.GOLDEN_MISMATCH,
    Code.INCOMPATIBLE_HARDWARE,
    Code.INCOMPATIBLE_RUNTIME,
    Code.INCOMPATIBLE_SIGNATURE,
    Code.MEMORY_SHORT,
    Code.DEVICE_UNAVAILABLE,
    Code.STORAGE_FULL,
    Code.REGION_EXISTS,
}
REQUESTS_PASS = ("serving", "worker", "runtimes")


class TestLimits:
    async def test_reach_the_models_that_they_name_those_there_and_those_to_come(self, bench):
        bench = bench(*revisions(1, name="one"), *revisions(1, name="other"))
        await bench.answered(call(model="one"))
        none = ModelLimits(min_priority=1)
        bench.service.limit(Limits(models={"one": none, "other": ModelLimits()}, default=none))
        assert (await refusal(bench.send(call(model="one")))).code is Code.OVERLOADED
        await bench.answered(call(model="other"))
        bench.service.limit(Limits(default=none))
        assert (await refusal(bench.send(call(model="other")))).code is Code.OVERLOADED
        bench.service.limit(Limits())
        await bench.answered(call(model="one"))

    async def test_of_duty_hold_for_all_models_together(self, bench, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(clock, "monotonic", lambda: now[0])
        bench = bench(*revisions(1, name="one"), *revisions(1, name="other"))
        bench.service.limit(Limits(duty=0.5))
        first = bench.send(call(model="one"))
        await settle()
        bench.asked()[0].answer(took_ns=(0, 10**9, 0))
        await first
        second = bench.send(call(model="other"))
        await settle()
        assert len(bench.asked()) == 1
        now[0] += 1.0
        bench.clock.forward(1.0)
        await settle()
        bench.answer_all()
        await second


class TestPriority:
    async def test_is_at_most_what_the_way_in_allows(self, bench):
        bench = bench()
        bench.service.limit(Limits(default=ModelLimits(min_priority=1)))
        request = call()
        request.priority = 1
        lowered = asyncio.create_task(bench.service.infer(request, None, as_it_is, best_priority=2))
        bench.callers.append(lowered)
        assert (await refusal(lowered)).code is Code.OVERLOADED
        await bench.answered(request)

    @pytest.mark.parametrize(
        ("rules", "asked", "level"),
        [
            (Queue(), 0, 2),
            (Queue(), 1, 1),
            (Queue(), 9, 3),
            (Queue(priority_levels=5), 0, 3),
            (Queue(priority_levels=5, default_priority=4), 0, 4),
            (Queue(preserve_ordering=True), 3, 1),
        ],
    )
    def test_is_one_of_the_models_own(self, rules, asked, level):
        assert rules.level(asked) == level


class TestStatistics:
    def statistics(self, bench):
        return bench.service.queue(bench.residency.all()[0]).statistics

    def told(self, bench):
        found = self.statistics(bench)
        return found.fail.count, found.refusals

    async def test_an_answer_counts_with_its_rows_and_its_time(self, bench, monkeypatch):
        monkeypatch.setattr(clock, "wall_ms", lambda: 1_700_000_000_123)
        bench = bench()
        await bench.answered(call(rows=3))
        found = self.statistics(bench)
        assert (found.success.count, found.inference_count, found.execution_count) == (1, 3, 1)
        assert found.last_success_ms == found.last_inference_ms == 1_700_000_000_123
        assert 0 < found.queue.ns < found.success.ns

    async def test_each_member_carries_the_whole_of_its_batchs_compute_time(self, bench):
        bench = bench()
        callers = [bench.send(call(rows=rows)) for rows in (1, 2)]
        await settle()
        bench.asked()[0].answer(took_ns=(10, 200, 3000))
        await asyncio.gather(*callers)
        found = self.statistics(bench)
        computed = (found.compute_input, found.compute_infer, found.compute_output)
        assert computed == (Duration(2, 20), Duration(2, 400), Duration(2, 6000))
        assert found.batch_sizes == {3: BatchSize(Duration(1, 10), Duration(1, 200), Duration(1, 3000))}

    async def test_an_execution_of_which_nobody_was_answered_is_no_success(self, bench):
        bench = bench()
        caller = bench.send()
        await settle()
        bench.asked()[0].answer(failed={0: Failed("inference_failed", "it broke", "")})
        await refusal(caller)
        found = self.statistics(bench)
        assert (found.execution_count, found.batch_sizes, found.fail.count) == (0, {}, 1)
        assert found.fail.ns > 0
        assert found.last_inference_ms > found.last_success_ms == 0

    @pytest.mark.parametrize("code", sorted(FAILURES | NOBODYS))
    async def test_an_error_counts_as_what_it_is(self, bench, code):
        bench = bench()
        caller = bench.send()
        await settle()
        bench.asked()[0].fail(EdgedError(code, "so it is"))
        await settle()
        if code is Code.WORKER_CRASHED:  # it was tried once more
            bench.asked()[1].fail(EdgedError(code, "so it is"))
        assert (await refusal(caller)).code is code
        found = self.statistics(bench)
        assert (found.success.count, found.fail.count) == (0, int(code in FAILURES))
        assert found.refused == ({code: 1} if code in NOBODYS else {})
        assert found.last_success_ms == 0

    async def test_a_members_own_error_counts_as_what_it_is(self, bench):
        bench = bench()
        caller = bench.send()
        await settle()
        bench.asked()[0].answer(failed={0: Failed("invalid_tensor", "element 3 is no text", "")})
        await refusal(caller)
        assert self.told(bench) == (0, 1)

    @pytest.mark.parametrize(
        ("request_", "code"),
        [
            pytest.param(call(rows=9), Code.INVALID_TENSOR, id="wrong tensor"),
            pytest.param(call(timeout_s=1e-9), Code.DEADLINE_EXCEEDED, id="no time"),
        ],
    )
    async def test_what_is_turned_away_counts_as_refused(self, bench, request_, code):
        bench = bench()
        assert (await refusal(bench.send(request_))).code is code
        assert self.told(bench) == (0, 1)

    async def test_a_caller_who_gives_up_counts_as_refused(self, bench):
        bench = bench()
        caller = bench.send()
        await settle()
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        assert self.told(bench) == (0, 1)

    async def test_overload_counts_as_refused(self, bench):
        bench = bench(queue_requests=1)
        bench.send()
        await settle()
        bench.send()
        await settle()
        await refusal(bench.send())
        assert self.told(bench) == (0, 1)

    async def test_each_revision_has_its_own(self, bench):
        bench = bench(*revisions(1, 2))
        await bench.answered(call(version="1"))
        assert [bench.service.queue(each).statistics.success.count for each in bench.residency.all()] == [1, 0]

    def test_no_code_is_both(self):
        assert REFUSALS == NOBODYS

    def test_every_code_where_requests_pass_is_one_of_them(self):
        package = Path(edged.__file__).parent
        sources = [path.read_text() for part in REQUESTS_PASS for path in (package / part).glob("*.py")]
        named = {Code[word] for source in sources for word in re.findall(r"\bCode\.([A-Z_]+)", source)}
        assert named - ELSEWHERE <= FAILURES | NOBODYS
        assert named >= FAILURES, "the sources were read"

    async def test_a_region_that_is_not_there_is_the_callers_matter_and_no_revisions(self, bench):
        bench, outcomes = bench(), []
        bench.service.observe(outcomes.append)
        request = call()
        request.contents = (Contents(Form.RAW, (), -1, Place("nobody", 0, 8)),)
        assert (await refusal(bench.send(request))).code is Code.REGION_NOT_FOUND
        assert self.told(bench) == (0, 1)
        assert outcomes == []
