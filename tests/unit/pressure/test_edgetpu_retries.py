"""An Edge TPU that failed is tried again, though the one process that can have it is the worker of its model."""

from __future__ import annotations

import contextlib
import socket
import subprocess

import psutil
import pytest
from support.accelerators import TPU, moved, runs
from support.bundles import make_bundle
from support.edgetpus import ADDRESS, LIBRARY, LIGHTER, build_library, bundle_of_one_variant
from support.polling import until_async
from support.tflites import compiled, doubling

from edged.runtimes.base import ENGINES

pytestmark = pytest.mark.skipif(ENGINES["edgetpu"].version() is None, reason="ai-edge-litert is not installed")

NETLINK_KOBJECT_UEVENT = 15
TENSORS = [("x", "INT8", [1, 4])], [("y", "INT8", [1, 4])]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(autouse=True)
def edge_tpu(library, monkeypatch):
    """This device has the library, and an Edge TPU on USB."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))


@pytest.fixture
def sole(models, tmp_path):
    """Takes in a model that has no variant but the one for an Edge TPU."""

    def take(name="sole", *, told=b"", extra=TPU, into=models.residency.add):
        return models.take(bundle_of_one_variant(tmp_path / "bundles", name, told=told, extra=f"{extra}\n"), into)

    return take


async def failed(models):
    await models.until(lambda: models.residency.failed)


async def works(models):
    await models.until(lambda: models.recorded("accelerator_works") and not models.residency.failed)


async def test_one_that_is_away_for_a_moment_is_used_again_by_the_worker_that_stayed(models, device, ahead, sole):
    resident = sole()
    await models.ready(resident)
    before = resident.worker
    device.node.unlink()
    await failed(models)
    device.node.touch()
    ahead[0] = 31.0
    await works(models)
    assert resident.worker is before
    assert device.life.degraded_reasons == []


async def test_a_batch_that_takes_long_shows_nothing_of_one_that_has_failed(models, device, ahead, sole):
    resident = sole()
    await models.ready(resident)
    device.node.unlink()
    await failed(models)
    device.at_work.add(resident.name)
    device.node.touch()
    for time_s in (31.0, 3700.0, 7400.0):
        looks, ahead[0] = device.looks, time_s
        await until_async(lambda before=looks: device.looks > before, "it was asked for again")
    assert models.residency.failed
    device.at_work.clear()
    ahead[0] = 11100.0
    await works(models)


@pytest.mark.usefixtures("device")
async def test_one_that_works_for_another_process_gets_that(models, ahead, sole):
    """As when a device on USB was away: the worker that had it open is answered with errors from then on."""
    resident = sole(told=b"later")
    await models.ready(resident)
    before = resident.worker
    await failed(models)
    assert "it answered a heartbeat with an error: litert failed: " in models.residency.failed["edgetpu"]
    assert resident.worker is before
    ahead[0] = 31.0
    await works(models)
    assert before.gone.done()
    (rested,) = models.recorded("model_rests")
    assert rested == "revision 1 rests: its accelerator has failed, and is tried by another worker"
    assert "it is restarted by a command" not in str(models.events.after(0))
    assert resident.choice.passed_over == []


@pytest.mark.usefixtures("device")
async def test_one_whose_worker_hangs_gets_another(models, ahead, sole):
    resident = sole(extra=TPU.replace("inference_s = 1", "inference_s = 4"))
    await models.ready(resident)
    before = resident.worker
    psutil.Process(before.pid).suspend()
    await failed(models)
    ahead[0] = 31.0
    await works(models)
    await models.ready(resident)
    assert resident.worker is not before


async def test_one_that_no_other_worker_can_open_does_not_hold_up_the_watch(
    models, device, ahead, sole, library, tmp_path, monkeypatch
):
    """Its model asks for it again and again meanwhile."""
    caps = "inference_s = 1, load_s = 2, first_inference_s = 1"
    resident = sole(told=b"later", extra=TPU.replace("inference_s = 1", caps))
    await models.ready(resident)
    nothing = "void *tflite_plugin_create_delegate() { return 0; } void tflite_plugin_destroy_delegate() {}"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(tmp_path / LIBRARY), "-"]
    subprocess.run(command, input=nothing.encode(), check=True, capture_output=True, timeout=60)  # noqa: ASYNC221
    await failed(models)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    before = device.watch._watched["edgetpu"]
    ahead[0] = 31.0
    await until_async(lambda: device.watch._watched["edgetpu"] != before, "the retry has come to an end")
    assert models.recorded("accelerator_works") == []
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    await models.ready(resident)
    ahead[0] = 1000.0
    await works(models)


async def test_a_worker_on_trial_is_not_replaced(models, device, ahead, sole):
    resident = sole(told=b"later", into=models.residency.add_on_trial)
    await models.ready(resident)
    before = resident.worker
    await failed(models)
    ahead[0] = 31.0
    await until_async(lambda: device.watch._watched["edgetpu"].retries, "it was tried again")
    assert resident.worker is before
    assert models.recorded("accelerator_works") == []


@pytest.fixture
async def moved_on(models, device, tmp_path):
    """A model of two variants that runs on the CPU, since its Edge TPU was away; which is back."""
    folder = make_bundle(
        tmp_path / "bundles/two",
        compiled(),
        *TENSORS,
        name="two",
        max_batch_size=0,
        runtime="edgetpu",
        file="model.tflite",
        more={"lighter.tflite": doubling([1, 4], "INT8", scale=1)},
        extra=TPU + LIGHTER,
    )
    resident = models.take(folder, models.residency.add)
    await models.ready(resident)
    device.node.unlink()
    await moved(models, resident, "lighter")
    device.node.touch()
    return resident


async def test_one_that_another_model_has_by_now_is_not_told_to_be_broken(models, device, ahead, sole, moved_on):
    other = sole("other", extra="")
    await models.ready(other)
    before = device.watch._watched["edgetpu"]
    ahead[0] = 31.0
    await until_async(lambda: device.watch._watched["edgetpu"] != before, "the retry has been put off")
    put_off = device.watch._watched["edgetpu"]
    assert (put_off.failed, put_off.retries) == (before.failed, before.retries)
    assert put_off.retry_at > before.retry_at
    other.leave("a test says so")
    await other.stop()
    ahead[0] = 100.0
    await models.until(runs(moved_on, "cpu"))
    assert models.recorded("accelerator_works") == ["accelerator edgetpu works again"]


async def test_one_that_cannot_be_opened_stays_failed_in_the_librarys_words(models, device, ahead, moved_on):
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with contextlib.closing(socket.socket(socket.AF_NETLINK, kind, NETLINK_KOBJECT_UEVENT)) as elsewhere:
        elsewhere.bind((ADDRESS, 1))
        ahead[0] = 31.0
        await until_async(lambda: device.watch._watched["edgetpu"].retries, "it was tried again")
        told = f"no worker could answer a heartbeat: an Edge TPU cannot be opened by {LIBRARY}: "
        assert models.residency.failed["edgetpu"].startswith(f"accelerator edgetpu has failed: {told}")
    ahead[0] = 200.0
    await models.until(runs(moved_on, "cpu"))
