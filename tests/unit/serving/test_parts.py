"""Requests of more rows than may be executed at once: in parts, in order, with others between, told as one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.queueing import FAR_S, Bench, code
from support.standins import as_it_is, manifest, settle

from edged.errors import Code, EdgedError
from edged.facts import Executed
from edged.serving.admission import admit
from edged.serving.busy import Busy
from edged.serving.overload import Bounds
from edged.serving.request import Call, Contents, InputMeta
from edged.serving.scheduler import Queue
from edged.types import ModelLimits
from edged.worker.messages import Failed, Form

BOUNDS = Bounds(100, 100_000)


@pytest.fixture
async def bench():
    made = Bench(BOUNDS)
    made.queue.limit(ModelLimits(max_batch_size=2))
    yield made
    await made.end()


def numbered(rows, columns=2):
    """A request whose bytes are all different."""
    inputs = (InputMeta("x", "FP32", (rows, columns)),)
    data = bytes(index % 251 for index in range(rows * columns * 4))
    return Call("doubles", "", "", inputs, (), (Contents(Form.RAW, (data,), -1),), signature=inputs), data


def ask(bench, request, level=1, within_s=FAR_S):
    """A caller of `request`."""
    deadline = asyncio.get_running_loop().time() + within_s
    admitted = admit(bench.resident.manifest, request)
    caller = asyncio.create_task(bench.queue.run(admitted, request.contents, deadline, as_it_is, level))
    bench.callers.append(caller)
    return caller


async def answer(bench, times):
    for _ in range(times):
        await settle()
        bench.answer_all()
    await settle()


async def test_are_executed_in_parts_and_answered_as_one(bench):
    request, data = numbered(5)
    caller = ask(bench, request)
    await answer(bench, 3)
    assert bench.executed == [[2], [2], [1]]
    assert b"".join(asked.body for asked in bench.worker.asked) == data
    (output,) = caller.result().outputs
    assert (output.name, output.shape, bytes(output.data)) == ("y", (5, 2), data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 2), st.integers(1, 3)), min_size=1, max_size=6),
    st.lists(st.integers(0, 8), min_size=1, max_size=6),
)
def test_any_mix_under_limits_that_change_gives_each_what_it_would_have_got_alone(requests, limits):
    async def run():
        bench = Bench(BOUNDS)
        made = [numbered(rows, columns) for rows, columns, _ in requests]
        callers = [ask(bench, request, level) for (request, _), (_, _, level) in zip(made, requests, strict=True)]
        turn = 0
        while not all(caller.done() for caller in callers):
            bench.queue.limit(ModelLimits(max_batch_size=limits[turn % len(limits)]))
            await answer(bench, 1)
            turn += 1
            assert turn < 200
        for caller, (request, data) in zip(callers, made, strict=True):
            (output,) = caller.result().outputs
            assert (output.shape, bytes(output.data)) == (request.inputs[0].shape, data)
        assert bench.queue.statistics.inference_count == sum(rows for rows, _, _ in requests)
        assert bench.queue.statistics.execution_count == len(bench.executed)
        await bench.end()

    asyncio.run(run())


async def test_may_be_executed_at_once_when_the_limit_is_gone(bench):
    caller = ask(bench, numbered(7)[0])
    await answer(bench, 1)
    bench.queue.limit(ModelLimits())
    await answer(bench, 2)
    assert bench.executed == [[2], [2], [3]]
    assert bytes(caller.result().outputs[0].data) == numbered(7)[1]


async def test_let_better_ones_go_between_their_parts_and_equal_ones_behind(bench):
    large = ask(bench, numbered(5)[0], level=2)
    await settle()
    better, equal = ask(bench, numbered(1, 3)[0], level=1), ask(bench, numbered(1, 4)[0], level=2)
    await answer(bench, 5)
    shapes = [asked.batch.members[0][0].shape for asked in bench.worker.asked]
    assert shapes == [(2, 2), (1, 3), (2, 2), (1, 2), (1, 4)]
    assert all(caller.result().outputs for caller in (large, better, equal))


async def test_that_are_cancelled_between_their_parts_are_executed_no_further(bench):
    caller, other = ask(bench, numbered(5)[0]), ask(bench, numbered(1, 3)[0])
    await settle()
    caller.cancel()
    await answer(bench, 3)
    assert bench.executed == [[2], [1]]
    assert other.result().outputs
    assert bench.queue.waiting == 0


async def test_whose_deadline_passes_between_their_parts_are_told_and_executed_no_further(bench):
    caller = ask(bench, numbered(5)[0], within_s=5)
    await settle()
    bench.clock.forward(5)
    await answer(bench, 2)
    assert code(caller) is Code.DEADLINE_EXCEEDED
    assert bench.executed == [[2]]
    assert bench.queue.statistics.success.count == 0


async def test_that_have_become_too_unimportant_between_their_parts_are_turned_away(bench):
    caller = ask(bench, numbered(5)[0], level=2)
    await settle()
    bench.queue.limit(ModelLimits(max_batch_size=2, min_priority=1))
    await answer(bench, 2)
    assert code(caller) is Code.OVERLOADED
    assert bench.executed == [[2]]
    assert bench.queue.waiting == 0


async def test_of_which_a_part_fails_fail(bench):
    caller = ask(bench, numbered(5)[0])
    await answer(bench, 1)
    bench.worker.asked[1].answer(failed={0: Failed("inference_failed", "not this one", "")})
    await answer(bench, 1)
    assert code(caller) is Code.INFERENCE_FAILED
    assert bench.executed == [[2], [2]]


async def test_whose_worker_dies_go_on_with_the_part_that_it_had(bench):
    request, data = numbered(5)
    caller = ask(bench, request)
    await answer(bench, 1)
    bench.resident.comes_back()
    bench.worker.asked[1].fail()
    await settle()
    bench.resident.is_back()
    await answer(bench, 2)
    assert [asked.rows for asked in bench.resident.worker.asked] == [[2], [1]]
    assert bytes(caller.result().outputs[0].data) == data


async def test_whose_worker_dies_twice_are_told(bench):
    caller = ask(bench, numbered(5)[0])
    await answer(bench, 1)
    for death in (1, 2):
        bench.worker.asked[death].fail()
        await settle()
    assert code(caller) is Code.WORKER_CRASHED


async def test_begin_again_where_another_variant_serves_now_since_an_answer_is_of_one(bench):
    request, data = numbered(5)
    caller = ask(bench, request)
    await answer(bench, 1)
    bench.worker.asked[1].answer()
    bench.resident.variant = bench.resident.manifest.variants[1]
    await answer(bench, 3)
    assert bench.executed == [[2], [2], [2], [2], [1]]
    told = caller.result()
    assert (told.variant, told.degraded, bytes(told.outputs[0].data)) == ("lesser", True, data)


async def test_that_cannot_be_cut_go_at_once():
    bench = Bench(BOUNDS, manifest(inputs=[("x", "BYTES", (-1,))], outputs=[("y", "BYTES", (-1,))]))
    bench.queue.limit(ModelLimits(max_batch_size=1))
    inputs = (InputMeta("x", "BYTES", (2,)),)
    lies = Contents(Form.RAW, (b"\xff\xff\xff\xff" + bytes(4),), -1)
    caller = ask(bench, Call("doubles", "", "", inputs, (), (lies,), signature=inputs))
    await answer(bench, 1)
    assert bench.executed == [[2]]
    assert caller.result().outputs
    await bench.end()


async def test_are_one_success_of_many_rows_and_executions(bench):
    ask(bench, numbered(5)[0])
    for _ in range(3):
        await settle()
        bench.worker.asked[-1].answer(took_ns=(10, 200, 3000))
    await settle()
    counted = bench.queue.statistics
    assert (counted.inference_count, counted.execution_count) == (5, 3)
    assert {rows: size.compute_infer.count for rows, size in counted.batch_sizes.items()} == {2: 2, 1: 1}
    assert (counted.success.count, counted.queue.count) == (1, 1)
    durations = (counted.compute_input, counted.compute_infer, counted.compute_output)
    assert [(each.count, each.ns) for each in durations] == [(1, 30), (1, 600), (1, 9000)]
    assert 0 < counted.queue.ns < counted.success.ns


async def test_are_told_to_telemetry_part_by_part_and_as_one_request(bench):
    facts = []
    bench.queue = Queue(bench.resident, BOUNDS, bench.gate, bench.duty, Busy(), bench.nap, facts.append)
    bench.queue.limit(ModelLimits(max_batch_size=2))
    ask(bench, numbered(5)[0])
    for _ in range(3):
        await settle()
        bench.worker.asked[-1].answer(took_ns=(0, 1_000_000_000, 0))
    await settle()
    assert all(isinstance(fact, Executed) for fact in facts)
    assert [(fact.rows, len(fact.queue_s)) for fact in facts] == [(2, 0), (2, 0), (1, 1)]
    assert facts[-1].compute_s == 3.0


async def test_a_part_whose_caller_is_told_that_the_model_goes_is_the_last(bench):
    caller = ask(bench, numbered(5)[0])
    await settle()
    bench.queue.give_up(EdgedError(Code.SHUTTING_DOWN, "the daemon is stopping"))
    await answer(bench, 2)
    assert code(caller) is Code.SHUTTING_DOWN
    assert bench.executed == [[2]]


class TestModelsThatShareTheDevice:
    @pytest.fixture
    async def both(self, bench):
        other = Bench(BOUNDS, gate=bench.gate)
        yield bench, other
        await other.end()

    async def test_compute_one_after_the_other_where_one_batch_may_be_computed(self, both):
        one, other = both
        one.gate.most = 1
        one.send()
        await settle()
        other.send()
        await settle()
        assert (one.executed, other.executed) == ([[1]], [])
        one.answer_all()
        await settle()
        assert other.executed == [[1]]

    async def test_go_by_priority_whoever_came_first(self, both):
        one, other = both
        one.gate.most = 1
        third = Bench(BOUNDS, gate=one.gate)
        one.send()
        await settle()
        other.send(level=2)
        await settle()
        third.send(level=1)
        await settle()
        one.answer_all()
        await settle()
        assert (third.executed, other.executed) == ([[1]], [])
        third.answer_all()
        await settle()
        assert other.executed == [[1]]
        await third.end()

    async def test_take_along_what_came_while_they_waited(self, both):
        one, other = both
        one.gate.most = 1
        one.send()
        await settle()
        for _ in range(3):
            other.send()
            await settle()
        one.answer_all()
        await settle()
        assert other.executed == [[1, 1, 1]]

    async def test_never_execute_what_was_too_late_or_given_up_while_it_waited_for_its_turn(self, both):
        one, other = both
        one.gate.most = 1
        one.send()
        await settle()
        late, gone = other.send(within_s=1), other.send()
        await settle()
        gone.cancel()
        one.clock.forward(1)
        other.clock.forward(1)
        await settle()
        one.answer_all()
        await settle()
        assert code(late) is Code.DEADLINE_EXCEEDED
        assert other.executed == []
        after = one.send()
        await settle()
        one.answer_all()
        assert (await after).outputs

    async def test_give_their_turn_back_whatever_becomes_of_the_batch(self, both):
        one, other = both
        one.gate.most = 1
        failed = one.send()
        await settle()
        other.send()
        await settle()
        one.worker.asked[0].fail(EdgedError(Code.WORKER_HANG, "it hung"))
        await settle()
        assert code(failed) is Code.WORKER_HANG
        assert other.executed == [[1]]

    async def test_wait_for_a_worker_that_comes_back_without_a_turn(self, both):
        one, other = both
        one.gate.most = 1
        one.resident.comes_back()
        waits = one.send()
        await settle()
        other.send()
        await settle()
        assert other.executed == [[1]]
        one.resident.is_back()
        await settle()
        assert not waits.done()
        other.answer_all()
        await answer(one, 1)
        assert waits.result().outputs
