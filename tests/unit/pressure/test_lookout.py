"""The watch as a whole: which ladders it governs by."""

from __future__ import annotations

import contextlib

from sim import sysfs

from edged.config.pressure import Pressure
from edged.pressure.lookout import Lookout, Parts
from edged.system.life import Life
from edged.types import Level

LADDER = "[degradation.critical]\nmax_batch_size = 1"


async def test_a_model_that_comes_later_is_governed_by_its_own_ladder(models, tmp_path):
    tree = sysfs.Sysfs(tmp_path / "root")
    tree.memory(4000, 4000)
    taken = []
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
    lookout = Lookout(parts, Pressure(memory_reserve_mib=100))
    async with contextlib.AsyncExitStack() as stack:
        lookout.start(stack)
        resident = models.add("m", cpu=LADDER)
        await models.ready(resident)
        tree.memory(4000, 40)
        lookout.govern()
        await models.until(lambda: taken and taken[-1].level is Level.CRITICAL)
        assert taken[-1].of("m").max_batch_size == 1
