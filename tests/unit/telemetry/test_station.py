"""Telemetry put together, without a broker: drift is told once it is there, levels and restarts are counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from edged.changes import Changes
from edged.config.settings import Device, Settings
from edged.events import EventLog
from edged.facts import OutputCounts
from edged.models.residency import Residency
from edged.telemetry.messages import Telemetry
from edged.telemetry.spool import Spool
from edged.telemetry.station import Parts, Station
from edged.types import Level


class Rig:
    """A station on a folder of its own."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        settings = settings or Settings(device=Device(name="till-7"))
        self.level = Level.NOMINAL
        self.changes = Changes()
        self.events = EventLog(64)
        self.residency = Residency(self.changes)
        self.station = Station(
            Parts(
                settings=settings.under(folder),
                root=folder,
                residency=self.residency,
                runtimes={"onnxruntime": "1.20", "openvino": None},
                events=self.events,
                changes=self.changes,
                mode=lambda: "serving",
                reasons=list,
                level=lambda: self.level,
            )
        )

    async def windows(self) -> list[Telemetry]:
        rows = await self.station.recorder.do(Spool.take, 64, coarse=False)
        return [msgspec.json.decode(row.payload, type=Telemetry) for row in rows if row.kind == "window"]

    async def close_window(self) -> None:
        self.station.recorder.close_window()
        await self.station.recorder.store()


@pytest.fixture
async def rig(tmp_path):
    found = Rig(tmp_path)
    yield found
    await found.station.recorder.close()


def results(*counts: int) -> OutputCounts:
    return OutputCounts("digits", 1, "fp32", "scores", "classes", (0.5, 0.5), counts)


async def test_drift_is_told_when_it_comes_and_when_it_goes(rig):
    for counts in ((500, 500), (900, 100), (900, 100), (3, 0), (500, 500)):
        rig.station.add(results(*counts))
        await rig.close_window()
    told = [event for event in rig.events.after(0) if event.code == "output_drift"]
    assert [(event.severity.value, event.subject) for event in told] == [("warning", "digits"), ("info", "digits")]
    assert "are shifted against the reference" in told[0].message


async def test_levels_and_restarts_are_counted(rig):
    worker = SimpleNamespace(name="digits", revision=1, restarts=2, begun=True)
    rig.residency._residents["digits", 1] = worker
    task = asyncio.create_task(rig.station._watch())
    await asyncio.sleep(0)
    rig.level = Level.CRITICAL
    rig.changes.mark()
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    await rig.close_window()
    worker.restarts = 3
    await rig.close_window()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    first, second = await rig.windows()
    assert [first.window.worker_restarts, second.window.worker_restarts] == [2, 1]
    assert "critical" in first.window.levels_ms
    assert second.totals.worker_restarts == 3


async def test_diagnostics_are_bounded(rig):
    from edged.events import Severity

    for _ in range(1000):
        rig.events.record(Severity.INFO, "code", "subject", "x" * 100_000)
    assert len(msgspec.json.encode(await rig.station._diagnostics())) < 60 * 1024


async def test_a_device_without_a_name_or_machine_id_says_what_to_do(tmp_path):
    found = Rig(tmp_path, Settings())
    assert "device.name" in found.station.problem
    await found.station.recorder.close()
