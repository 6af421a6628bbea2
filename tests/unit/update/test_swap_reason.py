"""When two revisions can only change places, since memory, or the device that they need, is there for one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from support.standins import manifest

from edged.bundle.manifest import Options, Requires, Variant
from edged.changes import Changes
from edged.config.settings import Workers
from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.models.memory import Fit, Memory, Need
from edged.models.resident import Resident
from edged.models.states import Source
from edged.system.hardware import Hardware
from edged.update import swap

TPU = Variant(name="tpu", runtime="edgetpu", file="model.onnx")
CPU = Variant(name="cpu", runtime="edgetpu", file="model.onnx", options=Options(device="CPU"))


async def nobody(*_: object) -> object:
    raise AssertionError("nothing is loaded here")


def resident(revision: int, *variants: Variant, room: Room | None = None) -> Resident:
    made = msgspec.structs.replace(manifest(revision=revision), variants=variants)
    source = Source(Path("/nowhere"), made, "factory")
    runtimes = {"edgetpu": "2.3", "onnxruntime": "1"}
    memory = room.memory if room else None
    return Resident(
        source,
        Hardware("generic"),
        runtimes,
        Workers(),
        Changes(),
        EventLog(10),
        nobody,  # type: ignore[arg-type]
        memory=memory,
    )


@pytest.mark.parametrize("runs", [TPU, CPU, None])
async def test_a_revision_keeps_its_device_also_while_it_runs_a_lighter_variant(runs: Variant | None):
    """It goes back to it when the pressure is gone, and must find it then."""
    serving = resident(1, TPU, CPU)
    serving.variant = runs
    why = await swap.reason(resident(2, TPU, CPU), serving)
    assert why.startswith(
        "one process at a time can have the device of variant tpu of revision 2 and tpu of revision 1"
    )


async def test_the_device_of_a_revision_that_somebody_unloads_is_kept_for_whoever_loads_it_again():
    serving = resident(1, TPU, CPU)
    serving.leave("somebody asked for that")
    assert "device of variant tpu of revision 2 and tpu of revision 1" in await swap.reason(resident(2, TPU), serving)


class Room:
    """Memory for so many MiB."""

    def __init__(self, left_mib: int) -> None:
        self.memory = Memory(judge=self._judge)
        self._left_mib = left_mib

    async def _judge(self, need: Need, _: int) -> Fit:
        fits = need.peak_bytes <= self._left_mib * 2**20
        return Fit(fits, fits, f"{need.peak_bytes // 2**20} MiB are wanted")


def of_mib(revision: int, mib: int, room: Room) -> Resident:
    variant = msgspec.structs.replace(CPU, runtime="onnxruntime", requires=Requires(memory_mib=mib))
    made = resident(revision, variant, room=room)
    assert made.choice.runnable
    return made


@pytest.mark.parametrize("left_mib", [100, 99])
async def test_the_memory_of_a_revision_that_has_no_worker_now_is_kept_for_it(left_mib: int):
    room = Room(left_mib)
    why = await swap.reason(of_mib(2, 60, room), of_mib(1, 40, room))
    assert ("memory holds one of the revisions 1 and 2" in why and "100 MiB are wanted" in why) == (left_mib < 100)


async def test_the_memory_of_a_revision_that_runs_is_not_asked_for_twice():
    room = Room(60)
    serving = of_mib(1, 40, room)
    serving.worker = object()  # type: ignore[assignment]
    assert await swap.reason(of_mib(2, 60, room), serving) == ""


async def test_what_has_no_room_alone_does_not_change_places():
    room = Room(50)
    with pytest.raises(EdgedError, match="revision 2 cannot be tried: 60 MiB are wanted"):
        await swap.reason(of_mib(2, 60, room), of_mib(1, 40, room))


@pytest.mark.parametrize(("new", "old"), [((CPU,), (TPU, CPU)), ((TPU, CPU), (CPU,)), ((CPU,), (CPU,))])
async def test_revisions_of_which_one_needs_no_device_are_loaded_beside_each_other(new, old):
    assert await swap.reason(resident(2, *new), resident(1, *old)) == ""


@pytest.mark.parametrize("has_it", ["comes up", "goes", ""])
async def test_the_memory_of_a_worker_that_comes_up_or_goes_is_not_asked_for_twice(has_it: str):
    """What is promised to the one that comes is not left any more, nor what the one that goes still has."""
    room = Room(60)
    serving = of_mib(1, 40, room)
    (variant,) = serving.choice.runnable
    if has_it == "goes":
        serving.variant = variant
        serving.leave("somebody asked for that")
    with room.memory.loading(variant) if has_it == "comes up" else nullcontext():
        assert (await swap.reason(of_mib(2, 60, room), serving) == "") == bool(has_it)


async def test_a_revision_that_has_failed_wants_nothing_for_what_this_device_never_runs():
    room = Room(100)
    own = msgspec.structs.replace(CPU, runtime="onnxruntime", requires=Requires(memory_mib=40))
    foreign = msgspec.structs.replace(CPU, name="gpu", runtime="tensorrt", requires=Requires(memory_mib=1000))
    serving = resident(1, foreign, own, room=room)
    serving.choice.pass_over(own, EdgedError(Code.LOAD_FAILED, "its worker crashed"))
    assert not serving.choice.runnable
    assert await swap.reason(of_mib(2, 60, room), serving) == ""
    assert "memory holds one" in await swap.reason(of_mib(2, 61, room), serving)
