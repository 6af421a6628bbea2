"""The queue of one model: what waits, what is executed together, and who is told what.

The worker is a stand-in that answers when the test says so, and the loop's clock moves only when the test moves it.
"""

import asyncio
import gc
import weakref

import msgspec
import pytest
from support.queueing import FAR_S, Bench, code
from support.standins import Resident, as_it_is, call, manifest, settle

from edged import clock
from edged.bundle.manifest import Queue as Rules
from edged.errors import Code, EdgedError
from edged.models.states import State
from edged.serving.admission import MAX_TEXTS, admit
from edged.serving.closing import Closing
from edged.serving.overload import Bounds
from edged.serving.request import Contents, InputMeta
from edged.serving.scheduler import HandedOnError
from edged.types import ModelLimits
from edged.worker.messages import Answered, Failed, Form


@pytest.fixture
async def bench():
    made = []

    def make(requests=100, size_bytes=10_000, of=None, delay_s=float("inf")):
        made.append(Bench(Bounds(requests, size_bytes, delay_s), of))
        return made[-1]

    yield make
    for each in made:
        await each.end()


@pytest.fixture
def at_half(bench, monkeypatch):
    """The queue of a device that may compute half of the time, and has computed so long; how time passes there."""
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    def make(of=None, owes_s=0.0, *, ahead=False):
        made = bench(of=of)
        made.duty.share = 0.5
        made.duty.spent(owes_s, now[0], ahead=ahead)

        async def passes(seconds):
            now[0] += seconds
            made.clock.forward(seconds)
            await settle()

        return made, passes

    return make


class TestOneRequest:
    async def test_is_executed_and_answered(self, bench):
        bench = bench()
        caller = bench.send(rows=3)
        await settle()
        (asked,) = bench.worker.asked
        assert (asked.batch.inputs, asked.batch.outputs, asked.rows) == (("x",), ("y",), [3])
        asked.answer()
        answer = await caller
        assert (answer.model, answer.revision, answer.variant, answer.degraded) == ("doubles", 1, "best", False)
        (output,) = answer.outputs
        assert (output.name, output.datatype, output.shape, len(output.data)) == ("y", "FP32", (3, 2), 24)

    async def test_says_that_a_lesser_variant_answered(self, bench):
        bench = bench()
        bench.resident.variant = bench.resident.manifest.variants[1]
        caller = bench.send()
        await settle()
        bench.answer_all()
        answer = await caller
        assert (answer.variant, answer.degraded) == ("lesser", True)

    async def test_is_named_with_its_model_when_the_worker_refuses_it(self, bench):
        bench = bench()
        caller = bench.send()
        await settle()
        bench.worker.asked[0].fail(EdgedError(Code.INFERENCE_FAILED, "the engine failed", "see its log"))
        await settle()
        assert code(caller) is Code.INFERENCE_FAILED
        assert str(caller.exception()) == "model 'doubles', revision 1: the engine failed; see its log"


class TestWhatIsRefused:
    """Its request may hold megabytes, which are not to wait for the collector of garbage."""

    @pytest.fixture(autouse=True)
    def collected_never(self):
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    async def told(self, bench, ends, within_s=FAR_S):
        """Asks, ends what waits for the worker by `ends`, and gives what is left of the request."""

        def render(_):
            return b""

        left, request = weakref.ref(render), call(1)
        admitted, deadline = admit(bench.resident.manifest, request), asyncio.get_running_loop().time() + within_s
        caller = asyncio.create_task(bench.queue.run(admitted, request.contents, deadline, render))
        del render
        await settle()
        await ends()
        await settle()
        assert isinstance(caller.exception(), EdgedError)
        return left

    async def test_by_its_worker_is_let_go_of(self, bench):
        bench = bench()

        async def fails():
            bench.worker.asked.pop().fail(EdgedError(Code.INFERENCE_FAILED, "the engine failed"))

        assert (await self.told(bench, fails))() is None

    async def test_by_its_deadline_is_let_go_of(self, bench):
        bench = bench()
        await bench.busy()

        async def passes():
            bench.clock.forward(1)

        assert (await self.told(bench, passes, 0.5))() is None
        assert (bench.queue.statistics.expired, bench.executed) == (1, [[1]]), "it is counted, and never executed"


class TestASecondBatch:
    async def test_that_is_full_is_sent_before_those_of_the_first_go_on(self, bench):
        """Its worker need not wait for their answers."""
        bench = bench()
        most = bench.resident.manifest.max_batch_size
        await bench.busy()
        told, request = [], call(1)

        async def goes_on():
            deadline = asyncio.get_running_loop().time() + FAR_S
            await bench.queue.run(admit(bench.resident.manifest, request), request.contents, deadline, as_it_is)
            told.append(len(bench.executed))

        first = [asyncio.create_task(goes_on()) for _ in range(most)]
        await settle()
        for _ in range(most):
            bench.send()
        for _ in range(2):
            bench.answer_all()
            await settle()
        await asyncio.gather(*first)
        assert told == [3] * most


class TestBatches:
    async def test_form_from_what_waits_while_one_is_executed(self, bench):
        bench = bench()
        await bench.busy()
        for rows in (1, 2, 3):
            bench.send(rows)
        await settle()
        assert bench.executed == [[1]], "the worker gets one batch at a time"
        bench.answer_all()
        await settle()
        assert bench.executed == [[1], [1, 2, 3]]

    async def test_whoever_comes_in_the_same_turn_of_the_loop_comes_along(self, bench):
        bench = bench()
        bench.send()
        bench.send()
        await settle()
        assert bench.executed == [[1, 1]]

    async def test_are_as_large_as_the_model_allows(self, bench):
        bench = bench(of=manifest(max_batch_size=4))
        await bench.busy()
        for rows in (2, 1, 3, 1):
            bench.send(rows)
        for _ in range(3):
            bench.answer_all()
            await settle()
        assert bench.executed == [[1], [2, 1], [3, 1]]

    async def test_hold_one_key_each(self, bench):
        bench = bench()
        await bench.busy()
        for columns in (2, 3, 2, 3):
            bench.send(columns=columns)
        for _ in range(3):
            bench.answer_all()
            await settle()
        shapes = [[member[0].shape for member in asked.batch.members] for asked in bench.worker.asked[1:]]
        assert shapes == [[(1, 2), (1, 2)], [(1, 3), (1, 3)]]

    async def test_are_of_one_where_the_model_takes_no_batch(self, bench):
        bench = bench(of=manifest(max_batch_size=0))
        for _ in range(3):
            bench.send()
        for _ in range(3):
            await settle()
            bench.answer_all()
        assert bench.executed == [[1], [1], [1]]

    async def test_lie_in_the_body_input_by_input_and_within_it_member_by_member(self, bench):
        of = manifest(inputs=[("x", "INT8", (-1, 2)), ("y", "INT8", (-1,))], outputs=[("z", "INT8", (-1,))])
        bench = bench(of=of)
        loop = asyncio.get_running_loop()
        for first in (1, 4):
            request = call()
            request.inputs = tuple(
                type(request.inputs[0])(name, "INT8", shape) for name, shape in (("x", (1, 2)), ("y", (1,)))
            )
            request.contents = (
                Contents(Form.RAW, (bytes([first]), bytes([first + 1])), -1),
                Contents(Form.VARINT, (bytes([first + 2]),), 1),
            )
            run = bench.queue.run(admit(of, request), request.contents, loop.time() + FAR_S, as_it_is)
            bench.callers.append(asyncio.create_task(run))
        await settle()
        (asked,) = bench.worker.asked
        assert asked.body == bytes([1, 2, 4, 5, 3, 6])
        assert [[(part.shape, part.size, part.form) for part in member] for member in asked.batch.members] == [
            [((1, 2), 2, Form.RAW), ((1,), 1, Form.VARINT)],
            [((1, 2), 2, Form.RAW), ((1,), 1, Form.VARINT)],
        ]

    async def test_give_each_member_its_own_part_of_the_answer(self, bench):
        bench = bench()
        callers = [bench.send(rows) for rows in (1, 3)]
        await settle()
        bench.answer_all()
        assert [(await caller).outputs[0].shape for caller in callers] == [(1, 2), (3, 2)]
        assert [len((await caller).outputs[0].data) for caller in callers] == [8, 24]

    async def test_have_no_more_texts_than_a_worker_walks_in_time(self, bench):
        of = manifest(max_batch_size=8, inputs=[("x", "BYTES", (-1, -1))])
        bench = bench(of=of, size_bytes=2**24)
        width = MAX_TEXTS // 3
        asked = msgspec.structs.replace(
            call(),
            inputs=(InputMeta("x", "BYTES", (1, width)),),
            contents=(Contents(Form.RAW, (bytes(4 * width),), -1),),
        )
        for _ in range(4):
            deadline = asyncio.get_running_loop().time() + FAR_S
            run = bench.queue.run(admit(of, asked), asked.contents, deadline, as_it_is)
            bench.callers.append(asyncio.create_task(run))
        await settle()
        bench.answer_all()
        await settle()
        assert bench.executed == [[1, 1, 1], [1]]

    async def test_a_members_own_error_is_told_to_that_member_alone(self, bench):
        bench = bench()
        first, second, third = (bench.send() for _ in range(3))
        await settle()
        bench.worker.asked[0].answer(failed={1: Failed("invalid_tensor", "element 3 is no text", "send text")})
        assert (await first).outputs
        assert (await third).outputs
        assert code(second) is Code.INVALID_TENSOR
        assert str(second.exception()) == "model 'doubles', revision 1: element 3 is no text; send text"

    async def test_are_counted_and_so_are_the_rows_that_were_answered(self, bench):
        bench = bench()
        for rows in (2, 3):
            bench.send(rows)
        await settle()
        bench.worker.asked[0].answer(failed={0: Failed("invalid_tensor", "", "")})
        await settle()
        counted = bench.queue.statistics
        assert (counted.execution_count, counted.inference_count) == (1, 3)
        assert counted.batch_sizes[5].compute_infer.count == 1, "what was executed, answered or not"

    async def test_a_batch_that_failed_as_a_whole_does_not_count(self, bench):
        bench = bench()
        bench.send()
        await settle()
        bench.worker.asked[0].fail(EdgedError(Code.WORKER_HANG, "it hung"))
        await settle()
        counted = bench.queue.statistics
        assert (counted.execution_count, counted.inference_count, counted.batch_sizes) == (0, 0, {})


class TestBounds:
    async def test_one_request_more_than_may_wait_is_refused_at_once(self, bench):
        bench = bench(requests=2)
        await bench.busy()
        waiting = [bench.send() for _ in range(2)]
        refused = bench.send()
        await settle()
        assert code(refused) is Code.OVERLOADED
        assert "has 2 requests of 16 bytes waiting" in str(refused.exception())
        assert not any(caller.done() for caller in waiting)

    async def test_more_bytes_than_may_wait_are_refused_at_once(self, bench):
        bench = bench(size_bytes=30)
        await bench.busy()
        bench.send(rows=2)
        await settle()
        too_much, fits = bench.send(rows=2), bench.send(rows=1)
        await settle()
        assert code(too_much) is Code.OVERLOADED
        assert not fits.done()

    async def test_one_that_is_larger_than_all_that_may_wait_is_taken_when_nothing_does(self, bench):
        bench = bench(size_bytes=10)
        await bench.busy()
        large = bench.send(rows=8)
        await settle()
        assert not large.done()
        assert bench.queue.waiting == 1

    async def test_what_a_worker_has_does_not_wait(self, bench):
        bench = bench(requests=1)
        await bench.busy()
        bench.send()
        await settle()
        assert (bench.queue.executing, bench.queue.waiting) == (1, 1)

    async def test_there_is_room_again_when_a_batch_was_formed(self, bench):
        bench = bench(requests=1, size_bytes=8)
        await bench.busy()
        bench.send()
        await settle()
        bench.answer_all()
        await settle()
        taken = bench.send()
        await settle()
        assert not taken.done()

    async def test_new_bounds_hold_for_what_comes_and_what_waits_stays(self, bench):
        bench = bench(requests=3)
        await bench.busy()
        waiting = [bench.send() for _ in range(3)]
        await settle()
        bench.queue.bounds = Bounds(1, 10_000)
        refused = bench.send()
        await settle()
        assert code(refused) is Code.OVERLOADED
        assert not any(caller.done() for caller in waiting)


class TestACallerWhoGivesUp:
    async def test_before_the_queue_has_looked_at_it_is_never_executed(self, bench):
        bench = bench()
        caller = bench.send()
        await asyncio.sleep(0)
        caller.cancel()
        await settle()
        assert caller.cancelled()
        assert (bench.executed, bench.queue.waiting) == ([], 0)

    async def test_while_it_waits_frees_its_place(self, bench):
        bench = bench(requests=1, size_bytes=8)
        await bench.busy()
        caller = bench.send()
        await settle()
        caller.cancel()
        await settle()
        assert caller.cancelled()
        assert bench.queue.waiting == 0
        after = bench.send()
        await settle()
        assert not after.done()
        bench.answer_all()
        await settle()
        assert bench.executed == [[1], [1]], "only what was waited for"

    async def test_among_others_takes_nobody_along(self, bench):
        bench = bench()
        await bench.busy()
        callers = [bench.send(rows) for rows in (1, 2, 3)]
        await settle()
        callers[1].cancel()
        bench.answer_all()
        await settle()
        assert bench.executed[1:] == [[1, 3]]

    async def test_while_it_is_executed_harms_nobody_else(self, bench):
        bench = bench()
        first, second = bench.send(), bench.send()
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        bench.answer_all()
        assert (await second).outputs
        assert bench.queue.executing == 0

    async def test_when_its_answer_is_on_its_way_has_given_up(self, bench):
        bench = bench()
        caller = bench.send()
        await settle()
        bench.answer_all()
        caller.cancel()
        await settle()
        assert caller.cancelled()
        assert (bench.queue.waiting, bench.queue.executing) == (0, 0)

    async def test_and_all_of_them_at_once_leave_an_empty_queue(self, bench):
        bench = bench(requests=5, size_bytes=40)
        await bench.busy()
        callers = [bench.send() for _ in range(5)]
        await settle()
        for caller in callers:
            caller.cancel()
        await settle()
        assert bench.queue.waiting == 0
        again = [bench.send() for _ in range(5)]
        await settle()
        assert not any(caller.done() for caller in again)


class TestDeadlines:
    async def test_that_pass_while_a_request_waits_are_told_and_it_is_never_executed(self, bench):
        bench = bench()
        await bench.busy()
        caller, patient = bench.send(within_s=5), bench.send(rows=2)
        await settle()
        bench.clock.forward(5)
        await settle()
        assert code(caller) is Code.DEADLINE_EXCEEDED
        assert "'doubles' did not answer in time" in str(caller.exception())
        assert bench.queue.waiting == 1
        bench.answer_all()
        await settle()
        assert bench.executed == [[1], [2]]
        assert not patient.done()

    async def test_that_pass_in_the_turn_in_which_the_worker_becomes_free_count(self, bench):
        bench = bench()
        await bench.busy()
        caller = bench.send(within_s=5)
        await settle()
        bench.answer_all()
        bench.clock.forward(5)
        await settle()
        assert code(caller) is Code.DEADLINE_EXCEEDED
        assert bench.executed == [[1]]

    async def test_that_had_passed_before_are_told_and_nothing_is_executed(self, bench):
        bench = bench()
        caller = bench.send(within_s=-1)
        await settle()
        assert code(caller) is Code.DEADLINE_EXCEEDED
        assert (bench.executed, bench.queue.waiting) == ([], 0)

    async def test_that_pass_while_a_request_is_executed_are_told_and_the_answer_goes_nowhere(self, bench):
        bench = bench()
        caller, patient = bench.send(within_s=5), bench.send()
        await settle()
        bench.clock.forward(5)
        await settle()
        assert code(caller) is Code.DEADLINE_EXCEEDED
        assert not patient.done()
        bench.answer_all()
        assert (await patient).outputs

    async def test_free_the_place_of_the_request(self, bench):
        bench = bench(requests=1, size_bytes=8)
        await bench.busy()
        bench.send(within_s=5)
        await settle()
        bench.clock.forward(5)
        await settle()
        after = bench.send()
        await settle()
        assert not after.done()


class TestAWorkerThatEnds:
    async def test_is_told_to_all_whose_batch_it_had(self, bench):
        bench = bench()
        callers = [bench.send() for _ in range(3)]
        await settle()
        for death in range(4):
            bench.worker.asked[death].fail()
            await settle()
        assert bench.executed == [[1, 1, 1], [1], [1], [1]], "each was tried once more, alone"
        assert [code(caller) for caller in callers] == [Code.WORKER_CRASHED] * 3
        assert str(callers[0].exception()) == "model 'doubles', revision 1: the worker ended: killed by SIGKILL"

    async def test_and_is_not_there_again_leaves_the_model_unavailable_for_those_who_wait(self, bench):
        bench = bench()
        await bench.busy()
        waiting = [bench.send(), bench.send(columns=3)]
        await settle()
        bench.resident.goes(State.LOADING, "its worker ended")
        bench.worker.asked[0].fail()
        await settle()
        assert [code(caller) for caller in waiting] == [Code.MODEL_UNAVAILABLE] * 2
        assert waiting[0].exception().message == "model 'doubles' is loading: its worker ended"

    async def test_and_is_replaced_at_once_costs_those_who_wait_nothing(self, bench):
        bench = bench()
        await bench.busy()
        waiting = bench.send(rows=2)
        await settle()
        bench.resident.worker = Resident().worker
        bench.worker.asked[0].fail()
        await settle()
        (retried,) = bench.resident.worker.asked
        retried.answer()
        await settle()
        _, asked = bench.resident.worker.asked
        asked.answer()
        assert (await waiting).outputs[0].shape == (2, 2)

    @pytest.mark.parametrize(
        "lie",
        [
            pytest.param(lambda asked: asked.fail(ValueError("a defect")), id="a defect of ours"),
            pytest.param(lambda asked: asked.reply.set_result((Answered([], (), 0, 0, 0), [])), id="no members"),
            pytest.param(
                lambda asked: asked.answer(failed={0: Failed("no_such_code", "", "")}), id="a code that does not exist"
            ),
        ],
    )
    async def test_or_makes_no_sense_is_told_too_and_the_next_are_answered(self, bench, lie):
        bench = bench()
        caller, other = bench.send(), bench.send()
        await settle()
        waiting = bench.send(rows=2)
        await settle()
        lie(bench.worker.asked[0])
        await settle()
        assert code(caller) is Code.INTERNAL
        assert other.done()
        bench.answer_all()
        assert (await waiting).outputs[0].shape == (2, 2)


class TestDrained:
    async def test_an_idle_queue_is(self, bench):
        await bench().queue.drained()

    async def test_one_is_when_all_that_waited_was_executed(self, bench):
        bench = bench()
        await bench.busy()
        bench.send(columns=3)
        drained = asyncio.create_task(bench.queue.drained())
        bench.callers.append(drained)
        for _ in range(2):
            await settle()
            assert not drained.done()
            bench.answer_all()
        await drained
        assert (bench.queue.waiting, bench.queue.executing) == (0, 0)

    async def test_one_is_when_its_worker_ended(self, bench):
        bench = bench()
        await bench.busy()
        drained = asyncio.create_task(bench.queue.drained())
        bench.callers.append(drained)
        bench.worker.asked[0].fail()
        await settle()
        assert not drained.done(), "it is tried once more"
        bench.worker.asked[1].fail()
        await drained

    async def test_one_can_be_used_again(self, bench):
        bench = bench()
        for _ in range(2):
            caller = bench.send()
            await settle()
            bench.answer_all()
            assert (await caller).outputs
            await bench.queue.drained()


class TestPriorities:
    async def test_the_best_goes_first_and_others_of_its_key_come_along(self, bench):
        bench = bench(of=manifest(max_batch_size=4))
        await bench.busy()
        for rows, level in ((1, 3), (2, 2), (3, 1)):
            bench.send(rows, level=level)
        for _ in range(3):
            bench.answer_all()
            await settle()
        assert bench.executed == [[1], [3, 1], [2]]

    async def test_a_full_queue_gives_the_place_of_the_newest_of_the_lowest_to_a_better_one(self, bench):
        bench = bench(requests=2)
        await bench.busy()
        old, new = bench.send(level=3), bench.send(level=3)
        await settle()
        better = bench.send(level=1)
        await settle()
        assert code(new) is Code.OVERLOADED
        assert "requests of higher priority" in str(new.exception())
        assert not old.done()
        assert not better.done()
        assert (bench.queue.waiting, bench.queue.statistics.shed) == (2, 1)

    async def test_and_to_no_equal_one(self, bench):
        bench = bench(requests=1)
        await bench.busy()
        bench.send(level=2)
        await settle()
        equal = bench.send(level=2)
        await settle()
        assert code(equal) is Code.OVERLOADED
        assert bench.queue.statistics.shed == 0

    async def test_where_the_order_is_preserved_batches_take_from_the_front_only(self, bench):
        bench = bench(of=manifest(queue=Rules(preserve_ordering=True)))
        await bench.busy()
        for columns in (2, 3, 2, 2):
            bench.send(columns=columns)
        for _ in range(4):
            bench.answer_all()
            await settle()
        shapes = [[member[0].shape for member in asked.batch.members] for asked in bench.worker.asked[1:]]
        assert shapes == [[(1, 2)], [(1, 3)], [(1, 2), (1, 2)]]


class TestWhatCannotBeginInTime:
    @pytest.fixture
    def took(self, monkeypatch):
        """Has the worker take so long for each batch, by the clock that measures it."""
        ahead, real = [0], clock.monotonic_ns
        monkeypatch.setattr(clock, "monotonic_ns", lambda: real() + ahead[0])

        def take(seconds):
            ahead[0] += int(seconds * 1e9)

        return take

    async def measured(self, bench, took, seconds):
        caller = bench.send()
        await settle()
        took(seconds)
        bench.answer_all()
        await caller

    async def test_is_refused_at_once(self, bench, took):
        bench = bench(of=manifest(max_batch_size=1))
        await self.measured(bench, took, 100.0)
        await bench.busy()
        bench.send()
        await settle()
        hopeless, patient = bench.send(within_s=190), bench.send(within_s=250)
        await settle()
        assert code(hopeless) is Code.OVERLOADED
        assert "in about 200 s, and it has 190 s until its deadline" in str(hopeless.exception())
        assert not patient.done()

    async def test_counts_what_the_running_batch_has_done(self, bench, took):
        bench = bench(of=manifest(max_batch_size=1))
        await self.measured(bench, took, 1.0)
        await bench.busy()
        bench.send()
        await settle()
        took(0.75)
        taken = bench.send(within_s=1.5)
        await settle()
        assert not taken.done()

    async def test_is_taken_in_where_nothing_waits(self, bench, took):
        bench = bench(of=manifest(max_batch_size=1))
        await self.measured(bench, took, 100.0)
        await bench.busy()
        first = bench.send(within_s=1)
        await settle()
        assert not first.done()

    async def test_does_not_hinder_a_better_one(self, bench, took):
        bench = bench(of=manifest(max_batch_size=1))
        await self.measured(bench, took, 1.0)
        await bench.busy()
        for _ in range(5):
            bench.send(level=2)
        await settle()
        best = bench.send(level=1, within_s=1.5)
        await settle()
        assert not best.done()

    async def test_counts_the_rest_that_a_duty_asks_of_all_but_the_highest(self, bench, took):
        bench = bench(of=manifest(max_batch_size=1))
        await self.measured(bench, took, 1.0)
        bench.duty.share = 0.1
        await bench.busy()
        bench.send()
        await settle()
        best, other = bench.send(level=1, within_s=4.0), bench.send(level=2, within_s=4.0)
        await settle()
        assert not best.done()
        assert code(other) is Code.OVERLOADED

    async def test_more_than_a_few_wait_no_longer_than_the_bound(self, bench, took):
        bench = bench(of=manifest(max_batch_size=1), delay_s=2.5)
        await self.measured(bench, took, 1.0)
        await bench.busy()
        few = [bench.send() for _ in range(15)]
        await settle()
        more = bench.send()
        await settle()
        assert not any(caller.done() for caller in few)
        assert code(more) is Code.OVERLOADED

    async def test_shrinks_the_batch_of_one_whose_time_is_short(self, bench, took):
        bench = bench()
        await self.measured(bench, took, 1.0)
        await bench.busy()
        bench.send(level=1, within_s=3.5)
        for _ in range(7):
            bench.send(level=2)
        await settle()
        took(1.0)
        bench.answer_all()
        await settle()
        took(5.0)
        bench.answer_all()
        await settle()
        assert bench.executed[2] == [1] * 8, "nothing was known of such a batch"
        await bench.busy()
        bench.send(level=1, within_s=3.5)
        for _ in range(7):
            bench.send(level=2)
        await settle()
        bench.answer_all()
        await settle()
        assert bench.executed[4] == [1] * 4


class TestLimits:
    async def test_of_rows_hold_for_the_next_batch(self, bench):
        bench = bench()
        await bench.busy()
        for _ in range(3):
            bench.send()
        bench.queue.limit(ModelLimits(max_batch_size=2))
        for _ in range(3):
            await settle()
            bench.answer_all()
        assert bench.executed == [[1], [1, 1], [1]]

    async def test_of_priority_turn_away_what_waits_and_what_comes(self, bench):
        bench = bench()
        await bench.busy()
        low, high = bench.send(level=2), bench.send(level=1)
        await settle()
        bench.queue.limit(ModelLimits(min_priority=1))
        late = bench.send(level=2)
        await settle()
        assert code(low) is code(late) is Code.OVERLOADED
        assert "only priorities up to 1 now" in str(late.exception())
        assert not high.done()
        assert bench.queue.statistics.shed == 1
        bench.queue.limit(ModelLimits())
        again = bench.send(level=2)
        await settle()
        assert not again.done()

    async def test_of_rate_let_so_many_pass(self, bench, monkeypatch):
        monkeypatch.setattr(clock, "monotonic", lambda: 100.0)
        bench = bench()
        bench.queue.limit(ModelLimits(max_rate=30))
        callers = [bench.send(level=2) for _ in range(3)]
        await settle()
        assert bench.executed == [[1, 1, 1]]
        refused = bench.send(level=2)
        await settle()
        assert not any(caller.done() for caller in callers)
        assert "may answer 30 requests a second now" in str(refused.exception())
        bench.queue.limit(ModelLimits())
        free = bench.send()
        await settle()
        assert not free.done()

    async def test_of_rate_let_the_highest_run_ahead_and_the_others_wait_for_it(self, bench, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(clock, "monotonic", lambda: now[0])
        bench = bench()
        bench.queue.limit(ModelLimits(max_rate=1))
        first = [bench.send(level=1) for _ in range(3)]
        await settle()
        bench.answer_all()
        await settle()
        assert all(caller.done() and not caller.exception() for caller in first)
        too_many = bench.send(level=1)
        await settle()
        now[0] += 2.5
        other = bench.send(level=2)
        await settle()
        assert code(too_many) is code(other) is Code.OVERLOADED
        now[0] += 0.5
        other = bench.send(level=2)
        await settle()
        assert not other.done()

    async def test_of_rate_skip_the_oldest_of_the_lowest_for_what_is_newer_and_no_worse(self, bench, monkeypatch):
        monkeypatch.setattr(clock, "monotonic", lambda: 100.0)
        bench = bench(of=manifest(max_batch_size=1))
        bench.queue.limit(ModelLimits(max_rate=40))
        await bench.busy()
        middle = bench.send(level=2)
        old, recent = bench.send(level=3), bench.send(level=3)
        await settle()
        newest = bench.send(level=3)
        await settle()
        assert [each.done() for each in (middle, old, recent, newest)] == [False, True, False, False]
        assert "may answer 40 requests a second now" in str(old.exception())
        for _ in range(2):
            bench.send(level=2)
            await settle()
        assert code(recent) is code(newest) is Code.OVERLOADED
        worse = bench.send(level=3)
        await settle()
        assert code(worse) is Code.OVERLOADED
        assert not middle.done()
        assert bench.queue.statistics.shed == 3
        assert bench.queue.waiting == 3

    async def test_of_rate_skip_nobody_for_what_is_not_taken_in(self, bench, monkeypatch):
        monkeypatch.setattr(clock, "monotonic", lambda: 100.0)
        bench = bench(size_bytes=100, of=manifest(max_batch_size=1))
        bench.queue.limit(ModelLimits(max_rate=30))
        await bench.busy()
        waits = [bench.send(level=2) for _ in range(2)]
        await settle()
        refused = bench.send(columns=100, level=2)
        await settle()
        assert code(refused) is Code.OVERLOADED
        assert not any(caller.done() for caller in waits)

    async def test_of_rate_make_room_by_whom_they_skip(self, bench, monkeypatch):
        monkeypatch.setattr(clock, "monotonic", lambda: 100.0)
        bench = bench(requests=2, of=manifest(max_batch_size=1))
        bench.queue.limit(ModelLimits(max_rate=30))
        await bench.busy()
        oldest, other = [bench.send(level=2) for _ in range(2)]
        await settle()
        newer = bench.send(level=2)
        await settle()
        assert code(oldest) is Code.OVERLOADED
        assert not other.done()
        assert not newer.done()

    async def test_of_duty_make_all_but_the_highest_rest(self, at_half):
        bench, passes = at_half(owes_s=1.0)
        bench.send(level=2)
        await settle()
        assert bench.executed == []
        bench.send(columns=3, level=1)
        await settle()
        assert len(bench.executed) == 1
        bench.answer_all()
        await settle()
        assert len(bench.executed) == 1
        await passes(1.0)
        assert len(bench.executed) == 2

    async def test_of_duty_hold_the_highest_too_once_it_has_run_ahead(self, at_half):
        bench, passes = at_half(owes_s=5.0, ahead=True)
        bench.send(level=1)
        await settle()
        assert bench.executed == []
        await passes(1.0)
        assert bench.executed == [[1]]

    async def test_of_duty_hold_one_that_waited_for_its_turn_while_others_computed(self, at_half):
        bench, passes = at_half()
        turn, others_s = bench.gate.turn, [1.0]

        async def late(level):
            number = await turn(level)
            bench.duty.spent(
                others_s.pop() if others_s else 0.0, clock.monotonic()
            )  # another model had the turn before
            return number

        bench.gate.turn = late
        bench.send(level=2)
        await settle()
        assert bench.executed == []
        await passes(1.0)
        assert bench.executed == [[1]]

    async def test_of_duty_do_not_hold_one_that_is_tried_once_more(self, at_half):
        """The highest would wait behind it."""
        bench, _ = at_half()
        bench.send(level=2)
        await settle()
        bench.duty.spent(1.0, clock.monotonic())
        bench.worker.asked[0].fail()
        await settle()
        assert bench.executed == [[1], [1]]

    async def test_of_duty_are_looked_at_again_each_second_of_a_long_rest(self, at_half):
        bench, passes = at_half(owes_s=60.0)
        bench.duty.share = 0.05
        bench.send(level=2)
        await settle()
        bench.duty.share = 1.0
        await passes(1.0)
        assert bench.executed == [[1]]

    async def test_of_duty_hold_all_of_a_model_that_tells_no_priorities_apart(self, at_half):
        bench, passes = at_half(manifest(queue=Rules(preserve_ordering=True)), owes_s=0.25)
        bench.send(level=1)
        await settle()
        assert bench.executed == []
        await passes(0.25)
        assert bench.executed == [[1]]

    async def test_of_duty_put_nobody_who_has_to_rest_before_the_highest(self, at_half):
        """Not even whoever waits longest, whose turn it would be."""
        bench, passes = at_half(manifest(max_batch_size=1), owes_s=1.0)
        oldest = bench.send(columns=3, level=2)
        for number in range(12):
            bench.send(level=1)
            await settle()
            assert len(bench.executed) == number + 1
            bench.answer_all()
            await settle()
        assert not oldest.done()
        await passes(1.0)
        assert bench.executed[-1] == [1]
        bench.answer_all()
        await oldest

    async def test_of_duty_do_not_hold_up_the_highest_that_comes_in_the_place_of_another(self, at_half):
        bench, _ = at_half(owes_s=1.0)
        gives_up = bench.send(level=2)
        await settle()
        gives_up.cancel()
        await settle()
        bench.send(columns=3, level=1)
        await settle()
        assert len(bench.executed) == 1

    async def test_of_rate_do_not_turn_away_what_was_taken_in_before(self, bench):
        bench = bench()
        bench.queue.limit(ModelLimits(max_rate=0.001))
        bench.send(level=2)
        await settle()
        refused = bench.send(level=2)
        await settle()
        assert code(refused) is Code.OVERLOADED
        handed_on = bench.send(level=2, handed_on=True)
        await settle()
        assert not handed_on.done()


class TestADefect:
    async def test_costs_those_that_wait_an_error_and_not_their_time(self, bench, monkeypatch):
        def defect(*_):
            raise ZeroDivisionError

        bench = bench()
        with monkeypatch.context() as patched:
            patched.setattr(Closing, "begin", defect)
            caller = bench.send()
            await settle()
            assert code(caller) is Code.INTERNAL
        bench.send()
        await settle()
        assert len(bench.executed) == 1


class TestADelay:
    async def test_waits_for_company_until_there_is_enough(self, bench):
        bench = bench(of=manifest(queue=Rules(max_delay_us=10_000_000, preferred_batch_size=3)))
        for number in range(3):
            assert bench.executed == []
            bench.send()
            await settle()
            assert bench.queue.waiting == (number + 1) % 3
        assert bench.executed == [[1, 1, 1]]

    @pytest.mark.parametrize("patient", [False, True], ids=["alone", "behind one who has more time"])
    async def test_leaves_a_caller_half_of_the_time_that_he_gives(self, bench, monkeypatch, patient):
        now_ns = [clock.monotonic_ns()]
        monkeypatch.setattr(clock, "monotonic_ns", lambda: now_ns[0])
        bench = bench(of=manifest(queue=Rules(max_delay_us=10_000_000)))

        async def passes(seconds):
            now_ns[0] += round(seconds * 1e9)
            bench.clock.forward(seconds)
            await settle()

        if patient:
            bench.send(within_s=60)
            await settle()
        caller = bench.send(within_s=8)
        await settle()
        await passes(3.5)
        assert bench.executed == []
        await passes(1)
        assert bench.executed == ([[1, 1]] if patient else [[1]])
        bench.answer_all()
        assert (await caller).outputs

    async def test_is_none_where_the_batch_takes_all_the_time_that_a_caller_gives(self, bench):
        bench = bench(of=manifest(queue=Rules(max_delay_us=10_000_000)))
        bench.queue._forecast.learn(1, 8.0)
        bench.send(within_s=8)
        await settle()
        assert bench.executed == [[1]]

    async def test_ends_by_itself(self, bench):
        bench = bench(of=manifest(queue=Rules(max_delay_us=5_000)))
        caller = bench.send()
        await bench.worker.got.wait()
        bench.answer_all()
        assert (await caller).outputs


class TestAWorkerThatGoesToRest:
    @pytest.mark.parametrize("turns", range(6))
    async def test_while_a_batch_forms_is_waited_for(self, bench, turns):
        bench = bench()
        caller = bench.send()
        for _ in range(turns):
            await asyncio.sleep(0)
        if bench.queue.executing:  # a batch that was sent is answered before the worker goes
            bench.answer_all()
        bench.resident.comes_back()
        await settle()
        bench.answer_all()
        bench.resident.is_back()
        await settle()
        bench.answer_all()
        await settle()
        assert caller.result().revision == 1

    async def test_for_another_hands_on_what_waits_with_its_deadline(self, bench):
        bench = bench()
        bench.resident.comes_back()
        deadline = asyncio.get_running_loop().time() + 5
        callers = [bench.send(within_s=5), bench.send(within_s=5)]
        await settle()
        assert bench.queue.waiting == 2
        bench.queue.hand_on()
        await settle()
        for caller in callers:
            error = caller.exception()
            assert isinstance(error, HandedOnError)
            assert error.deadline == pytest.approx(deadline, abs=1)
        assert bench.queue.waiting == 0
        async with asyncio.timeout(30):
            await bench.queue.drained()  # though there is no worker
