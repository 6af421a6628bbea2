"""An Edge TPU whose node is a file, and the watch of it."""

from __future__ import annotations

import asyncio

from edged.pressure.accelerators import Accelerators
from edged.system.life import Life
from support.polling import until_async

TPU = 'requires = { accelerator = "edgetpu" }\ncaps = { inference_s = 1 }'


class Device:
    """A root with the node of an Edge TPU, and the watch of it."""

    def __init__(self, root, models):
        self.node = root / "dev/apex_0"
        self.node.parent.mkdir()
        self.node.touch()
        self.doubts = {}
        self.life = Life(models.changes)
        self.proven = set()
        """The models whose callers are answered well."""
        self.looks = 0
        """How often it was asked for."""
        self.at_work = set()
        """Those that are at a batch that takes long."""
        events, residency = models.events, models.residency
        self.watch = Accelerators(root, residency, self._proven, lambda: self.doubts, events, self.life, 0.05, 0.5)
        self.task = asyncio.create_task(self.watch.run())

    def _proven(self, resident, within_s):
        assert within_s == 0.05
        self.looks += 1
        return None if resident.name in self.at_work else resident.name in self.proven


def runs(resident, variant):
    return lambda: resident.ready and resident.variant.name == variant


async def moved(models, resident, variant):
    """Waits until it runs that variant, and the worker before has gone."""
    await models.until(runs(resident, variant))
    await until_async(lambda: resident.steady, "the worker before has gone")


async def failed_and_due(models, device):
    """An accelerator that has failed, whose model has moved on, and that is to be tried again."""
    resident = models.add("m", tpu=TPU, cpu="")
    await models.ready(resident)
    device.doubts["coral:apex_0"] = "says -89 °C"
    await moved(models, resident, "cpu")
    device.doubts.clear()
    return resident
