"""Real models on a bench: what is resident, what was recorded, and how long nobody has asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from onnx import helper
from support.accelerators import Device
from support.bundles import onnx_model
from support.polling import until_changed

from edged.bundle.folder import pack, read_manifest
from edged.changes import Changes
from edged.config.settings import Workers
from edged.events import EventLog
from edged.models.memory import Memory
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.states import Source
from edged.pressure import accelerators
from edged.runtimes.base import ENGINES
from edged.system.hardware import Hardware
from edged.worker.templates import spawned

TENSOR = [("x", "FP32", [-1, 2])]
NEG = onnx_model([helper.make_node("Neg", ["x"], ["y"])], TENSOR, [("y", "FP32", [-1, 2])])


class Models:
    """Residents with real workers."""

    def __init__(self, folder: Path) -> None:
        self.changes = Changes()
        self.events = EventLog(100)
        self.residency = Residency(self.changes)
        self.memory = Memory()
        self.idle: dict[str, float] = {}
        """By model, for how many seconds nobody has asked it; 0 where nothing is said."""
        self._folder = folder

    def idle_s(self, resident: Resident) -> float:
        """As serving tells it."""
        return self.idle.get(resident.name, 0.0)

    def add(
        self,
        name: str,
        *,
        revision: int = 1,
        priority: int = 50,
        file: bytes = NEG,
        start: bool = True,
        **variants: str,
    ) -> Resident:
        """Starts a model of these variants, best first, each with what its table says beside name, runtime and file."""
        folder = self._folder / f"{name}-{revision}"
        folder.mkdir(parents=True)
        text = f'name = "{name}"\nrevision = {revision}\nmax_batch_size = 4\npriority = {priority}\n'
        for kind, tensor in (("inputs", "x"), ("outputs", "y")):
            text += f'[[{kind}]]\nname = "{tensor}"\ndatatype = "FP32"\nshape = [-1, 2]\n'
        (folder / "model.onnx").write_bytes(file)
        for variant, extra in (variants or {"cpu": ""}).items():
            text += f'[[variants]]\nname = "{variant}"\nruntime = "onnxruntime"\nfile = "model.onnx"\n{extra}\n'
        (folder / "bundle.toml").write_text(text)
        pack(folder)
        return self.take(folder, self.residency.add if start else self.residency.know)

    def take(self, folder: Path, into: Callable[[Resident], None]) -> Resident:
        """The model of a packed bundle, taken `into` the residency."""
        source = Source(folder, read_manifest(folder), "factory")
        runtimes = {each: engine.version() for each, engine in ENGINES.items()}
        hardware = Hardware("generic", accelerators=frozenset({"edgetpu", "nvidia"}))
        settings = Workers(restart_min_s=0.01)
        made = Resident(source, hardware, runtimes, settings, self.changes, self.events, spawned, memory=self.memory)
        into(made)
        return made

    async def until(self, condition):
        """Waits, from change to change, until it holds."""
        await until_changed(self.changes, condition)

    async def ready(self, *residents: Resident) -> None:
        """Waits until all of them are."""
        await self.until(lambda: all(each.ready for each in residents))

    def recorded(self, *codes: str) -> list[str]:
        """The messages of events of these codes."""
        return [event.message for event in self.events.after(0) if event.code in codes]


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    made = Models(tmp_path / "models")
    yield made
    await made.residency.stop()


@pytest.fixture
def ahead(monkeypatch):
    """By how many seconds the clock is ahead, in a list of one."""
    found = [0.0]
    monkeypatch.setattr(accelerators.clock, "monotonic", lambda: time.monotonic() + found[0])
    return found


@pytest.fixture
async def device(tmp_path, models):
    made = Device(tmp_path, models)
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)
