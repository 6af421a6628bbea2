"""What becomes of requests whose worker dies: each is tried once more, alone, and never after a hang."""

import asyncio
from concurrent.futures import Future

import pytest
from support.queueing import Bench, code
from support.standins import pending, settle

from edged.errors import Code, EdgedError
from edged.models.states import State
from edged.serving.overload import Bounds
from edged.serving.waiting import Waiting

HANG = EdgedError(Code.WORKER_HANG, "an inference took longer than 10 s")


@pytest.fixture
async def bench():
    made = Bench(Bounds(100, 10_000), None)
    yield made
    await made.end()


async def died(bench, *rows):
    """A batch of callers whose worker has died, and the next worker."""
    callers = [bench.send(each) for each in rows]
    await settle()
    bench.resident.comes_back()
    bench.worker.asked[0].fail()
    await settle()
    return callers, bench.resident.is_back()


async def test_each_member_is_tried_once_more_alone(bench):
    callers, next_ = await died(bench, 1, 2, 3)
    for number, caller in enumerate(callers):
        await settle()
        assert [asked.rows for asked in next_.asked] == [[1], [2], [3]][: number + 1]
        assert not caller.done()
        next_.asked[number].answer()
        assert (await caller).outputs[0].shape == (number + 1, 2)


async def test_what_is_tried_again_goes_before_what_waits_and_takes_none_of_it_along(bench):
    first = bench.send(1)
    await settle()
    waiting = [bench.send(2), bench.send(3)]
    await settle()
    bench.resident.comes_back()
    bench.worker.asked[0].fail()
    await settle()
    next_ = bench.resident.is_back()
    await settle()
    assert [asked.rows for asked in next_.asked] == [[1]]
    next_.asked[0].answer()
    await settle()
    assert [asked.rows for asked in next_.asked] == [[1], [2, 3]]
    next_.asked[1].answer()
    assert [(await caller).outputs[0].shape[0] for caller in (first, *waiting)] == [1, 2, 3]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_batch_holds_no_other_beside_one_that_is_tried_again(place):
    waiting = Waiting()
    every = [pending(Future()) for _ in range(3)]
    every[place].retried = True
    for each in every:
        waiting.add(each)
    batches = []
    while waiting.count:
        batches.append([every.index(each) for each in waiting.take(100)])
    assert batches == [[place], [each for each in range(3) if each != place]]


async def test_it_is_tried_no_third_time(bench):
    (caller,), next_ = await died(bench, 1)
    await settle()
    bench.resident.comes_back()
    next_.asked[0].fail()
    await settle()
    assert code(caller) is Code.WORKER_CRASHED
    third = bench.resident.is_back()
    await settle()
    assert third.asked == []


async def test_a_hang_is_told_at_once(bench):
    callers = [bench.send(), bench.send()]
    await settle()
    bench.worker.asked[0].fail(HANG)
    await settle()
    assert [code(caller) for caller in callers] == [Code.WORKER_HANG] * 2
    assert len(bench.worker.asked) == 1


async def test_a_hang_of_what_was_tried_again_is_told_too(bench):
    (caller,), next_ = await died(bench, 1)
    await settle()
    next_.asked[0].fail(HANG)
    await settle()
    assert code(caller) is Code.WORKER_HANG
    assert not next_.excused


@pytest.mark.parametrize("wrong", [Code.INFERENCE_FAILED, Code.INTERNAL, Code.INVALID_TENSOR])
async def test_no_other_failure_is_tried_again(bench, wrong):
    caller = bench.send()
    await settle()
    bench.worker.asked[0].fail(EdgedError(wrong, "so it is"))
    await settle()
    assert code(caller) is wrong
    assert len(bench.worker.asked) == 1


async def test_it_waits_for_the_next_worker_no_longer_than_its_deadline(bench):
    hasty, patient = bench.send(1, within_s=5), bench.send(2)
    await settle()
    bench.resident.comes_back()
    bench.worker.asked[0].fail()
    await settle()
    assert not hasty.done()
    bench.clock.forward(5)
    await settle()
    assert code(hasty) is Code.DEADLINE_EXCEEDED
    next_ = bench.resident.is_back()
    await settle()
    assert [asked.rows for asked in next_.asked] == [[2]]
    next_.asked[0].answer()
    assert (await patient).outputs


async def test_whoever_gave_up_meanwhile_is_not_tried_again(bench):
    gone, stays = bench.send(1), bench.send(2)
    await settle()
    gone.cancel()
    bench.resident.comes_back()
    bench.worker.asked[0].fail()
    await settle()
    assert bench.queue.waiting == 1
    next_ = bench.resident.is_back()
    await settle()
    next_.asked[0].answer()
    assert (await stays).outputs
    assert [asked.rows for asked in next_.asked] == [[2]]


async def test_where_no_worker_comes_back_everybody_is_told(bench):
    caller = bench.send()
    await settle()
    later = bench.send()
    await settle()
    bench.resident.comes_back()
    bench.worker.asked[0].fail()
    await settle()
    assert not caller.done()
    bench.resident.goes(State.FAILED, "no variant can run here")
    await settle()
    assert [code(each) for each in (caller, later)] == [Code.MODEL_UNAVAILABLE] * 2
    assert bench.queue.waiting == 0


async def test_the_first_death_is_charged_to_the_model_and_that_of_the_request_alone_is_not(bench):
    _, next_ = await died(bench, 1)
    await settle()
    assert (bench.worker.excused, next_.excused) == (False, True)
    next_.asked[0].fail()
    await settle()
    assert next_.excused


async def test_a_worker_that_survives_what_was_tried_again_is_excused_nothing(bench):
    (caller,), next_ = await died(bench, 1)
    await settle()
    next_.asked[0].answer()
    await caller
    await settle()
    assert not next_.excused
    assert bench.resident.answers == 1


async def test_its_bytes_count_while_it_waits_again(bench):
    bench.queue.bounds = Bounds(100, 16)
    bench.send(2)
    await settle()
    bench.resident.comes_back()
    bench.worker.asked[0].fail()
    await settle()
    refused = bench.send(1)
    await settle()
    assert code(refused) is Code.OVERLOADED
    bench.resident.is_back()
    await settle()
    taken = bench.send(1)
    await settle()
    assert not taken.done()


async def test_the_queue_is_drained_only_when_it_was_tried_again(bench):
    (caller,), next_ = await died(bench, 1)
    drained = asyncio.create_task(bench.queue.drained())
    await settle()
    assert not drained.done()
    next_.asked[0].answer()
    await drained
    assert (await caller).outputs
