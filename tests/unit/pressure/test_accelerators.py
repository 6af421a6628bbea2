"""An accelerator that vanishes or hangs: its models move on, and back when it works again. Its node is a file."""

from __future__ import annotations

import asyncio
import os
import time

import psutil
import pytest
from support.polling import until_async

from edged.errors import Code
from edged.models.heartbeat import beat, zeros
from edged.models.states import Lost
from edged.pressure import accelerators as under_test
from edged.pressure.accelerators import Accelerators
from edged.pressure.governor import Governor, State
from edged.pressure.policy import Policy
from edged.pressure.readings import Readings, Temperature, Trip
from edged.system.life import Life
from edged.worker import process
from edged.worker.messages import Form, InputPart

TPU = 'requires = { accelerator = "edgetpu" }\ncaps = { inference_s = 1 }'
LONG_S = 1e9


@pytest.fixture
def ahead(monkeypatch):
    """By how many seconds the clock is ahead, in a list of one."""
    found = [0.0]
    monkeypatch.setattr(under_test.clock, "monotonic", lambda: time.monotonic() + found[0])
    return found


async def moved(models, resident, variant):
    """Waits until it runs that variant, and the worker before has gone."""
    await models.until(runs(resident, variant))
    await until_async(lambda: resident.steady, "the worker before has gone")


class Device:
    """A root with the node of an Edge TPU, and the watch of it."""

    def __init__(self, root, models):
        self.node = root / "dev/apex_0"
        self.node.parent.mkdir()
        self.node.touch()
        self.doubts = {}
        self.life = Life(models.changes)
        events, residency = models.events, models.residency
        watch = Accelerators(root, residency, lambda _: LONG_S, lambda: self.doubts, events, self.life, 0.05, 0.5)
        self.task = asyncio.create_task(watch.run())


@pytest.fixture
async def device(tmp_path, models):
    made = Device(tmp_path, models)
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


def runs(resident, variant):
    return lambda: resident.ready and resident.variant.name == variant


async def test_one_that_vanishes_is_left_and_one_that_comes_back_is_used_again(models, device, ahead):
    resident, other = models.add("m", tpu=TPU, cpu=""), models.add("other")
    await models.ready(resident, other)
    untouched = other.worker
    assert resident.variant.name == "tpu"
    device.node.unlink()
    await models.until(runs(resident, "cpu"))
    assert models.recorded("accelerator_failed") == [
        "accelerator edgetpu has failed: its device node is gone; it is tried again later"
    ]
    assert resident.choice.because == "accelerator edgetpu has failed: its device node is gone"
    device.node.touch()
    ahead[0] = 31.0
    await models.until(runs(resident, "tpu"))
    assert models.recorded("accelerator_works") == ["accelerator edgetpu works again"]
    assert other.worker is untouched
    assert device.life.degraded_reasons == []


@pytest.mark.usefixtures("device")
async def test_one_that_hangs_is_left(models):
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    hangs = resident.worker
    psutil.Process(hangs.pid).suspend()
    await models.until(runs(resident, "cpu"))
    await asyncio.wait([hangs.ended])
    assert hangs.verdict is None or hangs.verdict.code is Code.WORKER_HANG


async def test_one_whose_temperature_makes_no_sense_is_left(models, device):
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    device.doubts["thermal_zone0"] = "of another"
    device.doubts["coral:apex_0"] = "says -89 °C"
    await models.until(runs(resident, "cpu"))
    (told,) = models.recorded("accelerator_failed")
    assert "its temperature makes no sense: says -89 °C" in told


async def test_a_model_that_has_nothing_else_stays(models, device):
    resident = models.add("m", tpu=TPU)
    await models.ready(resident)
    device.node.unlink()
    await models.until(lambda: models.recorded("accelerator_failed"))
    assert runs(resident, "tpu")()
    assert device.life.degraded_reasons == ["accelerator edgetpu has failed: its device node is gone"]


@pytest.mark.usefixtures("device")
async def test_a_device_without_any_is_not_looked_at(models, monkeypatch):
    looks = []
    monkeypatch.setattr(under_test.hardware, "present", lambda *_: looks.append(_))
    await models.ready(models.add("m"))
    assert looks == []


async def test_a_heartbeat_is_the_smallest_request(models):
    resident = models.add("m")
    await models.ready(resident)
    asked = zeros(resident.manifest)
    assert (asked.members, asked.contents) == ([(InputPart((1, 2), 8, Form.RAW),)], [[bytes(8)]])
    assert await beat(resident.worker, resident.manifest) > 0


async def test_one_that_has_failed_is_reset_before_it_is_tried_again(tmp_path, models, device, ahead):
    offered = tmp_path / "sys/class/apex/apex_0/device/reset"
    offered.parent.mkdir(parents=True)
    offered.touch()
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    device.doubts["coral:apex_0"] = "says -89 °C"
    await moved(models, resident, "cpu")
    assert offered.read_bytes() == b"", "not before the schedule says so"
    device.doubts.clear()
    ahead[0] = 31.0
    await models.until(runs(resident, "tpu"))
    assert offered.read_bytes() == b"1\n"
    assert models.recorded("accelerator_reset") == [f"accelerator edgetpu was reset through {offered}"]


async def test_one_is_not_reset_under_a_worker(tmp_path, models, device, ahead):
    offered = tmp_path / "sys/class/apex/apex_0/device/reset"
    offered.parent.mkdir(parents=True)
    offered.touch()
    resident = models.add("m", tpu=TPU)
    await models.ready(resident)
    device.doubts["coral:apex_0"] = "says -89 °C"
    await models.until(lambda: models.recorded("accelerator_failed"))
    device.doubts.clear()
    ahead[0] = 31.0
    await models.until(lambda: models.recorded("accelerator_works"))
    assert offered.read_bytes() == b""


async def failed_and_due(models, device):
    """An accelerator that has failed, whose model has moved on, and that is to be tried again."""
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    device.doubts["coral:apex_0"] = "says -89 °C"
    await moved(models, resident, "cpu")
    device.doubts.clear()
    return resident


async def test_one_is_not_reset_under_a_worker_that_was_lost(tmp_path, models, device, ahead):
    offered = tmp_path / "sys/class/apex/apex_0/device/reset"
    offered.parent.mkdir(parents=True)
    offered.touch()
    resident = await failed_and_due(models, device)
    tpu = resident.manifest.variants[0]
    resident.lost.append(Lost(tpu, resident.worker))  # which is still there, as far as anybody knows
    ahead[0] = 31.0
    await models.until(runs(resident, "tpu"))
    assert offered.read_bytes() == b""
    resident.lost.clear()


async def test_one_is_not_reset_while_it_is_loaded_to(tmp_path, models, device, ahead):
    offered = tmp_path / "sys/class/apex/apex_0/device/reset"
    offered.parent.mkdir(parents=True)
    offered.touch()
    resident = await failed_and_due(models, device)
    with models.memory.loading(resident.manifest.variants[0]):
        ahead[0] = 31.0
        await models.until(runs(resident, "tpu"))
        assert offered.read_bytes() == b""


async def test_a_reset_that_hangs_is_ended_and_holds_up_nothing(tmp_path, models, device, ahead, monkeypatch):
    monkeypatch.setattr(under_test, "_RESET_S", 0.5)
    offered = tmp_path / "sys/class/apex/apex_0/device/reset"
    offered.parent.mkdir(parents=True)
    os.mkfifo(offered)  # opening it waits for a reader
    resident = await failed_and_due(models, device)
    ahead[0] = 31.0
    await models.until(runs(resident, "tpu"))
    (told,) = models.recorded("accelerator_not_reset")
    assert "killed by SIGKILL" in told


async def test_a_load_is_known_while_it_goes_on(models):
    seen = []
    real = process.start
    with pytest.MonkeyPatch.context() as patch:

        async def start(*arguments):
            seen.append([each.name for each in models.memory.coming])
            return await real(*arguments)

        patch.setattr(process, "start", start)
        await models.ready(models.add("m", cpu=""))
    assert seen == [["cpu"]]
    assert models.memory.coming == []


async def test_a_reset_that_fails_is_told_and_the_device_is_tried_all_the_same(tmp_path, models, device, ahead):
    offered = tmp_path / "sys/class/apex/apex_0/device/reset"
    offered.mkdir(parents=True)  # opening it fails
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    device.doubts["coral:apex_0"] = "says -89 °C"
    await moved(models, resident, "cpu")
    device.doubts.clear()
    ahead[0] = 31.0
    await models.until(runs(resident, "tpu"))
    (told,) = models.recorded("accelerator_not_reset")
    assert str(offered) in told


async def test_trip_points_that_make_no_sense_are_no_fault_of_the_device(models, device):
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    odd = Temperature("coral:apex_0", 50.0, (Trip("passive", 300.0),))
    _, decision = Governor(Policy()).decide(State(), Readings(temperatures=(odd,)), 0.0)
    assert decision.distrusted
    device.doubts.update(decision.distrusted)
    looks = []
    present = under_test.hardware.present
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test.hardware, "present", lambda *asked: looks.append(asked) or present(*asked))
        async with asyncio.timeout(30):
            while len(looks) < 4:  # noqa: ASYNC110 - two would be enough; the watch tells nobody of a look
                await asyncio.sleep(0.01)
    assert runs(resident, "tpu")()
    assert models.recorded("accelerator_failed") == []
