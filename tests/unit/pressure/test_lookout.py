"""The watch as a whole: which ladders it governs by, and what those ask of models that come later."""

from __future__ import annotations

import contextlib

import pytest
from sim import sysfs

from edged.config.pressure import Pressure
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
