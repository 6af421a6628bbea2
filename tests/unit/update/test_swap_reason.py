"""When two revisions can only change places, since one process at a time can have their device."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.standins import manifest

from edged.bundle.manifest import Options, Variant
from edged.changes import Changes
from edged.config.settings import Workers
from edged.events import EventLog
from edged.models.resident import Resident
from edged.models.states import Source
from edged.system.hardware import Hardware
from edged.update import swap

TPU = Variant(name="tpu", runtime="edgetpu", file="model.onnx")
CPU = Variant(name="cpu", runtime="edgetpu", file="model.onnx", options=Options(device="CPU"))


async def nobody(*_: object) -> object:
    raise AssertionError("nothing is loaded here")


def resident(revision: int, *variants: Variant) -> Resident:
    made = msgspec.structs.replace(manifest(revision=revision), variants=variants)
    source = Source(Path("/nowhere"), made, "factory")
    return Resident(source, Hardware("generic"), {"edgetpu": "2.3"}, Workers(), Changes(), EventLog(10), nobody)  # type: ignore[arg-type]


@pytest.mark.parametrize("runs", [TPU, CPU, None])
async def test_a_revision_keeps_its_device_also_while_it_runs_a_lighter_variant(runs: Variant | None):
    """It goes back to it when the pressure is gone, and must find it then."""
    serving = resident(1, TPU, CPU)
    serving.variant = runs
    why = await swap.reason(resident(2, TPU, CPU), serving)
    assert why.startswith(
        "one process at a time can have the device of variant tpu of revision 2 and tpu of revision 1"
    )


async def test_a_revision_that_somebody_unloads_keeps_no_device():
    serving = resident(1, TPU, CPU)
    serving.leave("somebody asked for that")
    assert await swap.reason(resident(2, TPU, CPU), serving) == ""


@pytest.mark.parametrize(("new", "old"), [((CPU,), (TPU, CPU)), ((TPU, CPU), (CPU,)), ((CPU,), (CPU,))])
async def test_revisions_of_which_one_needs_no_device_are_loaded_beside_each_other(new, old):
    assert await swap.reason(resident(2, *new), resident(1, *old)) == ""
