"""The watch as a whole: which ladders it governs by, and what those ask of models that come later."""

from __future__ import annotations

import contextlib
import functools
import threading

import pytest
from sim import sysfs
from support.accelerators import TPU, runs
from support.polling import PATIENCE_S, until_async

from edged.config.pressure import Pressure
from edged.pressure import accelerators, sensors
from edged.pressure import lookout as under_test
from edged.pressure import monitor as monitors
from edged.pressure.accelerators import Accelerators
from edged.pressure.lookout import Lookout, Parts
from edged.system.life import Life
from edged.types import Level


@pytest.fixture
def tree(tmp_path):
    """A device with 4000 MiB."""
    made = sysfs.Sysfs(tmp_path / "root")
    made.memory(4000, 4000)
    return made


@pytest.fixture
def taken():
    """The limits that serving got."""
    return []


@pytest.fixture
async def lookout(models, tree, taken, tmp_path):
    parts = Parts(
        root=tree.root,
        state=tmp_path,
        residency=models.residency,
        runtimes={},
        templates=dict,
        events=models.events,
        life=Life(models.changes),
        busy_s=lambda: 0.0,
        idle_s=models.idle_s,
        proven=lambda *_: False,
        take=taken.append,
    )
    made = Lookout(parts, Pressure(memory_reserve_mib=100))
    async with contextlib.AsyncExitStack() as stack:
        made.start(stack)
        yield made


async def pressed(models, tree, lookout, taken):
    """Memory is short from now on."""
    tree.memory(4000, 40)
    lookout.govern()
    await models.until(lambda: taken and taken[-1].level is Level.CRITICAL)


async def test_a_model_that_comes_later_is_governed_by_its_own_ladder(models, tree, lookout, taken):
    resident = models.add("m", cpu="[degradation.critical]\nmax_batch_size = 1")
    await models.ready(resident)
    await pressed(models, tree, lookout, taken)
    assert taken[-1].of("m").max_batch_size == 1


async def test_a_revision_that_comes_later_with_the_same_ladder_begins_with_the_lighter_variant(
    models, tree, lookout, taken
):
    ladder = '[degradation.critical]\nvariant = "lighter"'
    first = models.add("m", best="", lighter=ladder)
    await models.ready(first)
    await pressed(models, tree, lookout, taken)
    await models.until(lambda: first.variant.name == "lighter")
    later = models.add("m", revision=2, best="", lighter=ladder)
    await models.ready(later)
    assert later.variant.name == "lighter"
    assert len(models.recorded("variant_changed")) == 1


async def test_a_shorter_limit_for_idle_models_holds_at_once(models, tree, lookout, taken):
    resident = models.add("m")
    await models.ready(resident)
    asked = []
    lookout._acting._idle_s = lambda each: asked.append(each) or 20.0
    lookout.apply(Pressure(memory_reserve_mib=100, idle_s=3600))
    await pressed(models, tree, lookout, taken)
    await until_async(lambda: asked, "it was looked who is idle")
    assert resident.ready
    lookout.apply(Pressure(memory_reserve_mib=100, idle_s=10))
    await models.until(lambda: resident.resting)


@pytest.fixture
def hanging(tree, monkeypatch):
    """An Edge TPU whose temperature is known; once this is set, the driver of something else hangs."""
    monkeypatch.setattr(under_test, "Accelerators", functools.partial(Accelerators, look_s=0.05, deadline_s=5.0))
    monkeypatch.setattr(monitors, "_SLOW_S", 0.5)
    for name in ("_AWAKE_S", "_WARM_S", "_ASLEEP_S"):
        monkeypatch.setattr(monitors, name, 0.02)
    sysfs.coral(tree.root)
    (tree.root / "dev").mkdir()
    (tree.root / "dev/apex_0").touch()
    begins, ends = threading.Event(), threading.Event()
    real = sensors.Sensors.read

    def read(*asked):
        if begins.is_set():
            ends.wait(3 * PATIENCE_S)
        return real(*asked)

    monkeypatch.setattr(sensors.Sensors, "read", read)
    yield begins
    ends.set()


async def test_a_driver_that_hangs_condemns_no_accelerator(hanging, models, lookout, monkeypatch):
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    monitor = lookout._monitor
    await until_async(lambda: "coral:apex_0" in monitor._state.sensors, "its temperature is known")
    hanging.set()
    await models.until(lambda: models.recorded("sensors_hang"))
    await until_async(lambda: "coral:apex_0" in monitor._distrusted, "its temperature is gone")
    looks = []
    present = accelerators.hardware.present
    monkeypatch.setattr(accelerators.hardware, "present", lambda *asked: looks.append(asked) or present(*asked))
    await until_async(lambda: len(looks) > 3, "it is looked at, more often than a fault may be seen")
    assert models.recorded("accelerator_failed") == []
    assert runs(resident, "tpu")()
