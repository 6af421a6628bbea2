"""An accelerator that vanishes or hangs: its models move on, and back when it works again. Its node is a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

import psutil
import pytest
from support.accelerators import TPU, failed_and_due, moved, runs
from support.polling import until_async

from edged.errors import Code, EdgedError
from edged.models import heartbeat
from edged.models.heartbeat import beat, zeros
from edged.models.states import Lost
from edged.pressure import accelerators as under_test
from edged.pressure.governor import Governor, State, senseless
from edged.pressure.policy import Policy
from edged.pressure.readings import Readings, Temperature, Trip
from edged.worker import process
from edged.worker.messages import Form, InputPart

GPU = TPU.replace("edgetpu", "nvidia")


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
    assert models.residency.gone == ()
    ahead[0] = 400.0
    for _ in range(3):
        await until_async(lambda: device.watch._watched["edgetpu"].retry_at > time.monotonic() + ahead[0], "a retry")
        ahead[0] += 4000.0
    await models.until(lambda: models.residency.gone == ("edgetpu",))
    device.node.touch()
    ahead[0] += 4000.0
    await models.until(runs(resident, "tpu"))
    assert models.residency.gone == ()
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


async def test_a_model_that_stays_shows_that_it_works_where_memory_holds_no_other_worker(
    models, device, ahead, monkeypatch
):
    resident = models.add("m", tpu=TPU)
    await models.ready(resident)
    before = resident.worker
    device.node.unlink()
    await models.until(lambda: models.recorded("accelerator_failed"))

    @contextlib.asynccontextmanager
    async def ask(_):
        raise EdgedError(Code.MEMORY_SHORT, "100 MiB are missing")
        yield

    monkeypatch.setattr(models.memory, "ask", ask)
    device.node.touch()
    ahead[0] = 31.0
    await models.until(lambda: models.recorded("accelerator_works"))
    assert resident.worker is before


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


async def test_what_comes_later_never_runs_on_one_that_has_failed(models, device, ahead):
    resident = await failed_and_due(models, device)
    started = []
    real = process.start
    with pytest.MonkeyPatch.context() as patch:

        async def start(*arguments):
            started.append([each.name for each in models.memory.coming])
            return await real(*arguments)

        patch.setattr(process, "start", start)
        later = models.add("later", tpu=TPU, cpu="")
        await models.ready(later)
    assert started == [["cpu"]]
    assert later.choice.because.startswith("accelerator edgetpu has failed")
    assert models.add("kept", tpu=TPU, cpu="", start=False).choice.variant.name == "cpu"
    ahead[0] = 31.0
    await models.until(lambda: runs(resident, "tpu")() and runs(later, "tpu")())


async def test_one_that_no_model_is_left_for_counts_as_failed_no_longer_than_until_it_is_due(models, device, ahead):
    """Else what comes for it would wait for ever."""
    resident = await failed_and_due(models, device)
    resident.leave("a test says so")
    await resident.stop()
    assert models.residency.failed
    ahead[0] = 31.0
    await models.until(lambda: not models.residency.failed)
    assert models.recorded("accelerator_works") == [
        "accelerator edgetpu may be used again: no model is left to try it with"
    ]
    assert device.life.degraded_reasons == []


async def test_another_whose_models_go_meanwhile_does_not_end_the_watch(tmp_path, models, device, ahead, monkeypatch):
    gpu = tmp_path / "dev/nvidia0"
    gpu.touch()
    resident, other = models.add("m", tpu=TPU, cpu=""), models.add("other", gpu=GPU, cpu="")
    await models.ready(resident, other)
    device.node.unlink()
    gpu.unlink()
    await models.until(lambda: len(models.recorded("accelerator_failed")) == 2)
    await models.until(lambda: resident.steady and other.steady)
    device.node.touch()
    gpu.touch()
    real = heartbeat.try_out

    async def try_out(*user):
        other.leave("a test says so")
        await other.stop()
        return await real(*user)

    monkeypatch.setattr(heartbeat, "try_out", try_out)
    ahead[0] = 31.0
    await models.until(runs(resident, "tpu"))
    await models.until(lambda: not models.residency.failed)
    assert not device.task.done()


async def test_a_look_that_meets_a_defect_is_told_once_and_the_next_is_taken(models, device, monkeypatch):
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    looks = []

    def present(*asked):
        looks.append(asked)
        raise ValueError("nobody thought of it")

    with monkeypatch.context() as patch:
        patch.setattr(under_test.hardware, "present", present)
        await until_async(lambda: len(looks) > 3, "it is looked at again")
    assert models.recorded("accelerator_not_watched") == [
        "a look at accelerator edgetpu failed: ValueError: nobody thought of it; it stays as it is"
    ]
    assert runs(resident, "tpu")()
    device.node.unlink()
    await models.until(runs(resident, "cpu"))


async def test_a_retry_that_meets_a_defect_is_put_off(models, device, ahead, monkeypatch):
    resident = await failed_and_due(models, device)
    before = device.watch._watched["edgetpu"]

    async def try_out(*_):
        raise ValueError("nobody thought of it")

    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "try_out", try_out)
        ahead[0] = 31.0
        await until_async(lambda: device.watch._watched["edgetpu"] != before, "the retry has been put off")
    assert models.recorded("accelerator_not_watched")
    assert device.watch._watched["edgetpu"].retry_at > before.retry_at
    ahead[0] = 62.0
    await models.until(runs(resident, "tpu"))


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
    readings = Readings(temperatures=(Temperature("coral:apex_0", 50.0, (Trip("passive", 300.0),)),))
    state, decision = Governor(Policy()).decide(State(), readings, 0.0)
    assert decision.distrusted
    device.doubts.update(senseless(state, readings))
    looks = []
    present = under_test.hardware.present
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test.hardware, "present", lambda *asked: looks.append(asked) or present(*asked))
        async with asyncio.timeout(30):
            while len(looks) < 4:  # noqa: ASYNC110 - two would be enough; the watch tells nobody of a look
                await asyncio.sleep(0.01)
    assert runs(resident, "tpu")()
    assert models.recorded("accelerator_failed") == []


@pytest.mark.parametrize("code", [Code.MEMORY_SHORT, Code.STORAGE_FULL])
async def test_want_of_room_says_nothing_of_the_device_and_the_next_user_tries(
    models, device, ahead, monkeypatch, code
):
    resident, other = models.add("m", tpu=TPU, cpu=""), models.add("other", tpu=TPU, cpu="")
    await models.ready(resident, other)
    device.doubts["coral:apex_0"] = "says -89 °C"
    await moved(models, resident, "cpu")
    await moved(models, other, "cpu")
    device.doubts.clear()
    real, tried, short = heartbeat.try_out, [], {"m", "other"}

    async def try_out(user, variant):
        tried.append(user.name)
        if user.name in short:
            raise EdgedError(code, "100 MiB are missing")
        return await real(user, variant)

    monkeypatch.setattr(heartbeat, "try_out", try_out)
    before = device.watch._watched["edgetpu"]
    ahead[0] = 31.0
    await until_async(lambda: device.watch._watched["edgetpu"] != before, "the retry has been put off")
    assert sorted(tried) == ["m", "other"], "each once, and not again at the next look"
    put_off = device.watch._watched["edgetpu"]
    assert (put_off.faults, put_off.failed, put_off.retries) == (before.faults, before.failed, before.retries)
    assert put_off.retry_at > before.retry_at
    short.remove(tried[1])
    ahead[0] = 62.0
    await models.until(lambda: runs(resident, "tpu")() and runs(other, "tpu")())
