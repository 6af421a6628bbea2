"""What a heartbeat tells of an accelerator: answered well, with an error, not at all. Its node is a file."""

from __future__ import annotations

import asyncio

import numpy as np
import psutil
import pytest
from onnx import helper, numpy_helper
from support.accelerators import TPU, moved, runs
from support.bundles import onnx_model
from support.polling import until_async

from edged.errors import Code
from edged.models import heartbeat
from edged.models.heartbeat import RefusedError, beat, zeros
from edged.pressure import accelerators
from edged.worker.messages import Answered, Failed


def looks_up(first):
    """A model that fails where what it is asked lies not in 0 to 1, counted from `first`."""
    table = helper.make_node("Constant", [], ["table"], value=numpy_helper.from_array(np.zeros(2, np.float32)))
    start = helper.make_node("Constant", [], ["first"], value=numpy_helper.from_array(np.array(first, np.int64)))
    nodes = [
        helper.make_node("Cast", ["x"], ["asked"], to=7),
        helper.make_node("Sub", ["asked", "first"], ["at"]),
        helper.make_node("Gather", ["table", "at"], ["y"]),
    ]
    return onnx_model([table, start, *nodes], [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])


async def test_a_heartbeat_that_is_answered_with_an_error_says_so(models):
    resident = models.add("m", file=looks_up(5))
    await models.ready(resident)
    with pytest.raises(RefusedError, match="onnxruntime refuses the values") as caught:
        await beat(resident.worker, resident.manifest)
    assert caught.value.code is Code.INVALID_TENSOR


async def test_a_word_that_no_worker_may_answer_with_is_an_error_like_any_other(models):
    resident = models.add("m")
    await models.ready(resident)

    class Broken:
        async def infer(self, _, use):
            refusal = Failed("gpu_lost", "the device is gone", "")
            return use(Answered([refusal], (), 1, 1, 1), [refusal])

    with pytest.raises(RefusedError, match="the device is gone") as caught:
        await beat(Broken(), resident.manifest)
    assert caught.value.code is Code.INTERNAL


class Beats:
    """What heartbeats ask, and of which models they were asked."""

    def __init__(self, monkeypatch):
        self.broken = False
        """The device answers with errors: what it is asked is such that the model has none but those."""
        self.asked = []
        monkeypatch.setattr(heartbeat, "zeros", self._zeros)

    def _zeros(self, manifest):
        self.asked.append(manifest.name)
        asked = zeros(manifest)
        if self.broken:
            asked.contents[0][0] = np.full(2, 9, np.float32).tobytes()
        return asked

    async def more(self, count=3):
        before = len(self.asked)
        await until_async(lambda: len(self.asked) >= before + count, "heartbeats go on")


@pytest.fixture
def beats(monkeypatch):
    return Beats(monkeypatch)


async def test_one_that_answers_with_errors_what_it_has_answered_well_is_left(models, device, ahead, beats):
    resident = models.add("m", file=looks_up(0), tpu=TPU, cpu="")
    await models.ready(resident)
    await beats.more()
    beats.broken = True
    await moved(models, resident, "cpu")
    (told,) = models.recorded("accelerator_failed")
    assert "it answered a heartbeat with an error: " in told
    ahead[0] = 31.0
    await until_async(lambda: device.watch._watched["edgetpu"].retries, "it was tried again")
    assert models.recorded("accelerator_works") == [], "it lives, and still answers with errors"
    assert len(device.life.degraded_reasons) == 1
    beats.broken = False
    ahead[0] = 10_000.0
    await models.until(runs(resident, "tpu"))


@pytest.mark.usefixtures("device")
async def test_a_model_that_refuses_zeros_says_nothing_of_its_device_and_the_next_is_asked(models, beats):
    refuses, answers = models.add("a", file=looks_up(5), tpu=TPU, cpu=""), models.add("b", tpu=TPU, cpu="")
    await models.ready(refuses, answers)
    async with asyncio.timeout(30):
        while beats.asked.count("b") < 3:  # noqa: ASYNC110 - the watch tells nobody of a look
            await asyncio.sleep(0.01)
    assert runs(refuses, "tpu")()
    assert models.recorded("accelerator_failed") == []
    psutil.Process(answers.worker.pid).suspend()
    await models.until(lambda: runs(refuses, "cpu")() and runs(answers, "cpu")())


async def test_callers_that_are_answered_show_that_it_works_and_others_do_not(models, device, beats):
    resident = models.add("m", file=looks_up(0), tpu=TPU, cpu="")
    device.proven.add("m")
    await models.ready(resident)
    await beats.more(1)  # by which it is known that zeros can be answered
    beats.broken = True
    looks = []
    present = accelerators.hardware.present
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerators.hardware, "present", lambda *asked: looks.append(asked) or present(*asked))
        await until_async(lambda: len(looks) > 3, "it is looked at")
    assert beats.asked == ["m"]
    assert runs(resident, "tpu")()
    device.proven.clear()
    await models.until(runs(resident, "cpu"))


async def test_callers_that_are_answered_show_it_of_one_that_had_failed_too(models, device, ahead, beats):
    """Its one worker may be late with a heartbeat for all that callers ask."""
    resident = models.add("m", file=looks_up(0), tpu=TPU)
    await models.ready(resident)
    await beats.more(1)
    before = resident.worker
    beats.broken = True
    await models.until(lambda: models.residency.failed)
    device.proven.add("m")
    asked = list(beats.asked)
    ahead[0] = 31.0
    await models.until(lambda: not models.residency.failed)
    assert beats.asked == asked
    assert resident.worker is before
