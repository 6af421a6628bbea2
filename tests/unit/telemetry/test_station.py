"""Telemetry put together, without a broker: drift is told once it is there, levels and restarts are counted."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from support.polling import until_async

from edged.changes import Changes
from edged.config.settings import Device, Settings
from edged.events import EventLog
from edged.facts import OutputCounts
from edged.models.residency import Residency
from edged.system.os_requests import STATUS, OsImage, OsStatus
from edged.telemetry.answers import Answers
from edged.telemetry.messages import Command, Result, Telemetry
from edged.telemetry.mqtt import Message
from edged.telemetry.orders import Order
from edged.telemetry.recorder import NotKeptError
from edged.telemetry.spool import Spool
from edged.telemetry.station import Parts, Station
from edged.types import Level, Limits

ANSWERED = Order(
    command=Command(schema=1, command="report", fleet="shops", issued_ms=1, expires_ms=2**50, nonce="n" * 16),
    operator="alice",
    envelope=b"",
    topics=("edged/1/shops/devices/till-7/result",),
    answer=Result(device="till-7", nonce="n" * 16, status="done"),
)


class Broker:
    """A connection to one that takes everything."""

    def __init__(self) -> None:
        self.connected = False
        self.session = "1"
        self.got: list[Message] = []

    def publish(self, message: Message) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(0)
        self.got.append(message)
        return future


class Rig:
    """A station on a folder of its own."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.folder = folder
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


async def test_what_the_operating_system_is_now_is_told_within_a_window(rig):
    task = asyncio.create_task(rig.station._follow_os())
    (rig.folder / "var/lib/edged/os").mkdir(parents=True)
    status = OsStatus(booted=OsImage("edge-os:42", "42", "sha256:42"))
    (rig.folder / "var/lib/edged" / STATUS).write_bytes(msgspec.json.encode(status))
    told = []
    rig.station.sync = SimpleNamespace(state_changed=lambda: told.append(rig.station.state().os_digest))
    for _ in range(2):
        await rig.close_window()
        await until_async(lambda: told and not rig.station._window_ended.is_set(), "it has looked")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told == ["sha256:42"], "and once"


async def test_a_report_that_is_cut_short_loses_no_window(rig):
    rig.station.add(results(500, 500))
    busy = threading.Event()
    rig.station.recorder._thread.submit(busy.wait)
    report = asyncio.create_task(rig.station._report(False))
    await until_async(rig.station.recorder._storing.locked, "it stores")
    report.cancel()
    await asyncio.gather(report, return_exceptions=True)
    busy.set()
    await rig.station.recorder.store()
    (found,) = await rig.windows()
    assert sum(found.window.models[0].drift[0].counts) == 1000


async def test_a_report_within_the_reserve_writes_nothing_and_is_kept_when_there_is_room(rig):
    rig.station.add(results(500, 500))
    rig.station.take(Limits(journal_only=True))
    await rig.station._report(False)
    assert await rig.windows() == []
    rig.station.take(Limits())
    await rig.station._report(False)
    (found,) = await rig.windows()
    assert sum(found.window.models[0].drift[0].counts) == 1000


async def test_the_time_of_commands_is_read_beside_the_loop(rig):
    """It lies in files, and the disk may hang."""
    asked = []
    signed_time = lambda: asked.append(threading.current_thread())  # noqa: E731 - it gives nothing
    rig.station._parts = msgspec.structs.replace(rig.station._parts, signed_time=signed_time)
    assert (await rig.station._context()).now_ms > 0
    assert threading.main_thread() not in asked
    assert len(asked) == 1


async def test_the_spool_is_made_by_the_time_that_commands_are_held_against(rig):
    later = datetime.now(UTC) + timedelta(days=365)
    rig.station._parts = msgspec.structs.replace(rig.station._parts, signed_time=lambda: later)
    made_ms = await rig.station.recorder.do(Spool.remembers_since_ms, 2**45, clock_synchronized=False)
    assert made_ms == int(later.timestamp() * 1000)


async def test_an_answer_that_the_disk_did_not_give_back_is_told_once_it_does(rig):
    broker = Broker()
    broker.connected = True
    station = rig.station
    await station.recorder.do(lambda spool: spool.orders.accept(ANSWERED, 5))
    station._answers = Answers(station.recorder, broker)
    station.recorder.kept = station._kept
    real, asked = station.recorder.do, []

    async def full(*_arguments, **_named):
        asked.append(True)
        raise NotKeptError("the disk is full")

    station.recorder.do = full
    task = asyncio.create_task(station._answers.run())
    station._answers.news()
    await until_async(lambda: asked and station._answers._unread, "it was asked for")
    assert not broker.got
    station.recorder.do = real
    await rig.close_window()
    await until_async(lambda: broker.got, "it is told")
    assert [message.topic for message in broker.got] == list(ANSWERED.topics)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
