"""The monitor on a tree of files: it looks, decides, tells, sleeps and is woken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sim import sysfs
from sim.sysfs import Sysfs
from support.polling import PATIENCE_S, until_async

from edged import clock, log
from edged.events import EventLog
from edged.pressure import monitor as monitors
from edged.pressure import sensors as sensors_module
from edged.pressure import tracing, trust
from edged.pressure.governor import Decision, Governor, State
from edged.pressure.monitor import Monitor, interval_s
from edged.pressure.policy import Policy
from edged.pressure.reader import Reader
from edged.pressure.readings import Readings
from edged.pressure.trace import Recorder, replay
from edged.types import Level, Limits

NOMINAL = {"thermal": Level.NOMINAL}


class Watch:
    """A monitor that runs, and what it told."""

    def __init__(self, root: Path, policy: Policy, recorder: type[Recorder] = Recorder, **environment: str) -> None:
        self.events = EventLog(100)
        self.taken: list[Limits] = []
        self.governor = Governor(policy)
        self.recorder = recorder(root, 2**20, self.governor)
        self.monitor = Monitor(root, root, self.governor, self.events, self.taken.append, lambda: 0.0, self.recorder)
        self.task = asyncio.create_task(self.monitor.run(environment))

    async def until(self, holds: Callable[[], bool]) -> None:
        await until_async(lambda: self.task.done() or holds(), "it holds, or the monitor has ended", log=self.recorded)
        assert not self.task.done(), self.task

    def recorded(self) -> str:
        return "\n".join(f"{event.code}: {event.message}" for event in self.events.after(0))

    def told(self, code: str) -> list[str]:
        return [event.message for event in self.events.after(0) if event.code == code]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it waits for is not to be waited for here."""
    for name in ("_HOLDING_S", "_AWAKE_S", "_WARM_S", "_ASLEEP_S", "_SOONEST_S"):
        monkeypatch.setattr(monitors, name, 0.02)


@contextlib.asynccontextmanager
async def watching(
    root: Path, policy: Policy | None = None, recorder: type[Recorder] = Recorder, **environment: str
) -> AsyncIterator[Watch]:
    watch = Watch(root, policy or Policy(), recorder, **environment)
    try:
        yield watch
    finally:
        watch.task.cancel()
        await asyncio.gather(watch.task, return_exceptions=True)


async def test_heat_is_told_with_its_inputs_and_taken_back(tmp_path: Path):
    tree = sysfs.raspberry_pi(tmp_path)
    tree.zone(0, "cpu-thermal", 84.9, {"passive": 85.0})
    async with watching(tmp_path, Policy(dwell_s=0.5)) as watch:
        await watch.until(lambda: watch.monitor.level is not Level.NOMINAL)
        assert watch.taken[-1].background_paused
        (event,) = [each for each in watch.events.after(0) if each.code == "pressure_level"]
        assert event.subject == "thermal"
        assert "cpu-thermal is at 84.9 °C" in event.message
        assert event.details["inputs"] == "thermal_zone0:cpu-thermal 84.9 °C"
        tree.set_temperature(0, 45.0)
        await watch.until(lambda: watch.monitor.level is Level.NOMINAL)
        assert "thermal pressure is nominal" in watch.told("pressure_level")[-1]


async def test_a_trigger_wakes_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It would else sleep longer than this test waits."""
    monkeypatch.setattr(monitors, "_ASLEEP_S", 10 * PATIENCE_S)
    fifo = tmp_path / "watch"
    os.mkfifo(fifo)
    async with watching(tmp_path, MEMORY_PRESSURE_WATCH="/watch") as watch:
        await watch.until(fifo_is_read(fifo))
        await watch.until(lambda: watch.monitor.level is Level.ELEVATED)
        assert watch.told("pressure_level") == [
            "memory pressure is elevated, was nominal: the kernel reports stalls: memory.watch"
        ]


async def test_triggers_that_never_end_do_not_keep_it_from_resting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    soonest_s = 0.1
    monkeypatch.setattr(monitors, "_SOONEST_S", soonest_s)
    monkeypatch.setattr(monitors, "_AWAKE_S", 10 * PATIENCE_S)
    fifo = tmp_path / "watch"
    os.mkfifo(fifo)
    async with watching(tmp_path, MEMORY_PRESSURE_WATCH="/watch") as watch:
        await watch.until(fifo_is_read(fifo))
        await watch.until(lambda: b'"memory":"elevated"' in traced(tmp_path))
        began, before = clock.monotonic(), looks(tmp_path)
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            for _ in range(100):
                os.write(descriptor, b"pressure")
                await asyncio.sleep(0.005)
        finally:
            os.close(descriptor)
        assert 0 < looks(tmp_path) - before <= (clock.monotonic() - began) / soonest_s + 1


def looks(folder: Path) -> int:
    """How often it has looked: a line of its trace each."""
    return traced(folder).count(b"\n")


def traced(folder: Path) -> bytes:
    """What it has recorded; a decision is carried out before that."""
    return b"".join(path.read_bytes() for path in folder.glob("*.trace"))


def fifo_is_read(fifo: Path) -> Callable[[], bool]:
    """Writes to it once somebody reads."""

    def write() -> bool:
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        os.write(descriptor, b"pressure")
        os.close(descriptor)
        return True

    return write


async def test_a_sensor_that_lies_is_told_once_and_when_it_is_believed_again(tmp_path: Path):
    tree = sysfs.raspberry_pi(tmp_path)
    tree.set_temperature(0, -89.0)
    async with watching(tmp_path) as watch:
        await watch.until(lambda: bool(watch.told("sensor_distrusted")))
        tree.set_temperature(0, 45.0)
        await watch.until(lambda: bool(watch.told("sensor_trusted")))
        assert len(watch.told("sensor_distrusted")) == 1
        assert "-89 °C" in watch.told("sensor_distrusted")[0]


async def test_only_what_makes_no_sense_speaks_against_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trust, "STUCK_S", 0.0)
    monkeypatch.setattr(trust, "STUCK_LOAD", 0.0)
    tree = sysfs.raspberry_pi(tmp_path)
    async with watching(tmp_path) as watch:
        await watch.until(lambda: bool(watch.told("sensor_distrusted")))
        assert "exactly" in watch.told("sensor_distrusted")[0]
        assert watch.monitor.doubts == {}
        tree.set_temperature(0, -89.0)
        await watch.until(lambda: bool(watch.monitor.doubts))
        assert "-89 °C" in watch.monitor.doubts["thermal_zone0:cpu-thermal"]


async def test_what_it_decided_can_be_replayed(tmp_path: Path):
    tree = sysfs.raspberry_pi(tmp_path)
    tree.zone(0, "cpu-thermal", 84.9, {"passive": 85.0})
    async with watching(tmp_path) as watch:
        await watch.until(lambda: watch.monitor.level is not Level.NOMINAL and looks(tmp_path) > 1)
    assert decided_the_same(tmp_path)


def decided_the_same(folder: Path) -> bool:
    (path,) = folder.glob("*.trace")
    found = list(replay(path))
    return bool(found) and all(each.same for each in found)


async def test_a_trace_that_cannot_be_written_ends_and_the_watching_goes_on(tmp_path: Path):
    tree = sysfs.raspberry_pi(tmp_path / "root")
    (tmp_path / "root" / "pressure-0.trace").mkdir()
    (tmp_path / "root" / "pressure-1.trace").mkdir()
    async with watching(tmp_path / "root") as watch:
        await watch.until(lambda: bool(watch.told("trace_ended")))
        tree.set_temperature(0, -89.0)
        await watch.until(lambda: bool(watch.told("sensor_distrusted")))


class HangingDisk(Recorder):
    """Takes a line when `hang` is set, or this test has long ended."""

    hang = threading.Event()

    def record(self, *_: object) -> None:
        self.hang.wait(PATIENCE_S)


async def test_a_trace_whose_disk_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracing, "_SLOW_S", 0.05)
    tree = Sysfs(tmp_path)
    tree.memory(8000, 6000)
    try:
        async with watching(tmp_path, recorder=HangingDisk) as watch:
            await watch.until(lambda: bool(watch.told("trace_ended")))
            assert "longer than 0.05 s" in watch.told("trace_ended")[0]
            tree.memory(8000, 10)
            await watch.until(lambda: watch.monitor.level is not Level.NOMINAL)
    finally:
        HangingDisk.hang.set()


async def test_other_settings_hold_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitors, "_ASLEEP_S", 10 * PATIENCE_S)
    tree = Sysfs(tmp_path)
    tree.memory(8000, 500)
    async with watching(tmp_path) as watch:
        await watch.until(lambda: any(tmp_path.glob("*.trace")))
        assert watch.monitor.level is Level.NOMINAL
        watch.monitor.govern(Governor(Policy(memory_reserve_bytes=600 * 2**20)))
        await watch.until(lambda: watch.monitor.level is Level.ELEVATED)


@pytest.mark.parametrize(("where", "absent"), [("sensors_coral.probes", []), ("sensors_power.read", None)])
async def test_a_driver_that_hangs_is_told_and_blinds_nothing_but_sensors(
    where: str, absent: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """While they are looked for, and later."""
    monkeypatch.setattr(monitors, "_SLOW_S", 0.5)
    monkeypatch.setattr(sensors_module, "_SLOWLY_S", -1.0)
    tree = sysfs.raspberry_pi(tmp_path)
    fifo = tmp_path / "watch"
    os.mkfifo(fifo)
    hang = threading.Event()

    def ask(*_: object) -> object:
        hang.wait(3 * PATIENCE_S)  # longer than this test waits
        return absent

    monkeypatch.setattr(f"edged.pressure.sensors.{where}", ask)
    try:
        async with watching(tmp_path, Policy(dwell_s=0.05), MEMORY_PRESSURE_WATCH="/watch") as watch:
            await watch.until(lambda: bool(watch.told("sensors_hang")))
            assert "have not answered" in watch.told("sensors_hang")[0]
            await watch.until(fifo_is_read(fifo))
            await watch.until(lambda: any("memory.watch" in each for each in watch.told("pressure_level")))
            tree.memory(4000, 10)
            await watch.until(lambda: watch.monitor.levels["memory"] is Level.EMERGENCY)
            seen = looks(tmp_path)
            await watch.until(lambda: looks(tmp_path) > seen + 3)
            assert watch.monitor.levels["memory"] is Level.EMERGENCY
            assert len(watch.told("sensors_hang")) == 1
            tree.zone(0, "cpu-thermal", 95.0, {"passive": 85.0})
            hang.set()
            await watch.until(lambda: watch.monitor.levels["thermal"] is Level.EMERGENCY)
    finally:
        hang.set()


async def test_a_disk_that_hangs_keeps_nobody_from_watching_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitors, "_SLOW_S", 0.5)
    tree = sysfs.raspberry_pi(tmp_path)
    hang = threading.Event()
    monkeypatch.setattr("edged.pressure.resources.sensors_storage.read", lambda *_: hang.wait(3 * PATIENCE_S))
    try:
        async with watching(tmp_path, Policy(dwell_s=0.05)) as watch:
            await watch.until(lambda: bool(watch.told("sensors_hang")))
            tree.memory(4000, 10)
            await watch.until(lambda: watch.monitor.levels.get("memory") is Level.EMERGENCY)
            assert not watch.told("sensor_failed")
    finally:
        hang.set()


async def test_the_watch_survives_what_nobody_thought_of_and_tells_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise OverflowError("too large")

    tree = Sysfs(tmp_path)
    tree.memory(8000, 6000)
    async with watching(tmp_path) as watch:
        await watch.until(lambda: len(watch.monitor.levels) > 0)
        with monkeypatch.context() as patched:
            patched.setattr(Governor, "decide", fail)
            await watch.until(lambda: bool(watch.told("sensor_failed")))
            await asyncio.sleep(0.1)  # several looks
        tree.memory(8000, 10)
        await watch.until(lambda: watch.monitor.level is not Level.NOMINAL)
        (told,) = watch.told("sensor_failed")
        assert "OverflowError: too large" in told


async def test_a_sensor_that_fails_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise AttributeError("of another version")

    sysfs.raspberry_pi(tmp_path)
    monkeypatch.setattr("edged.pressure.sensors.sensors_power.read", fail)
    monkeypatch.setattr(sensors_module, "_SLOWLY_S", -1.0)
    async with watching(tmp_path) as watch:
        await watch.until(lambda: looks(tmp_path) > 3)
        assert watch.told("sensor_failed") == [
            "power cannot be read: AttributeError: of another version; it is decided without"
        ]


class TestHowOftenItLooks:
    @pytest.fixture(autouse=True)
    def _hasty(self) -> None:
        """As it is."""

    def decision(self, level: Level) -> Decision:
        return Decision({"thermal": level}, Limits(), (), {})

    def test_idle_it_wakes_the_loop_at_most_once_a_second(self):
        """Each look wakes it twice."""
        for closest_c in (None, -5.0, 3.0, 50.0):
            assert interval_s(self.decision(Level.NOMINAL), closest_c, 0.0) >= 2.0

    def test_longer_while_it_is_cool_and_idle(self):
        cool, warm = (interval_s(self.decision(Level.NOMINAL), closest_c, 0.0) for closest_c in (40.0, 5.0))
        at_work = interval_s(self.decision(Level.NOMINAL), 40.0, 1.0)
        assert cool > warm > at_work

    def test_each_second_while_anything_is_pressed(self):
        decision = Decision({"thermal": Level.NOMINAL, "memory": Level.ELEVATED}, Limits(), (), {})
        assert interval_s(decision, None, 0.0) == 1.0

    def test_more_often_while_it_holds_something_back(self):
        assert interval_s(self.decision(Level.ELEVATED), 0.0, 1.0) < 1.0


class TestTheReader:
    async def test_one_that_hangs_is_not_joined_by_another_and_what_it_gives_late_is_dropped(self):
        hang, calls = threading.Event(), []

        def read() -> int:
            calls.append(1)
            hang.wait(PATIENCE_S)
            return len(calls)

        async def read_again() -> int:
            while True:
                try:
                    return await reader.read(read, PATIENCE_S)
                except TimeoutError:
                    assert hang.is_set(), "it is not waited for again"
                    await asyncio.sleep(0)

        reader: Reader[int] = Reader()
        try:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await reader.read(read, 0.02)
            hang.set()
            async with asyncio.timeout(PATIENCE_S):
                assert await read_again() == 2
        finally:
            hang.set()
            reader.close()

    async def test_what_it_raises_comes_back(self):
        reader: Reader[Readings] = Reader()

        def read() -> Readings:
            raise ValueError("of the sensor")

        with pytest.raises(ValueError, match="of the sensor"):
            await reader.read(read, PATIENCE_S)
        reader.close()


def test_the_first_state_is_empty():
    assert State().sensors == {}


async def test_what_was_found_is_logged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log.configure("debug", "json")
    sysfs.gateway(tmp_path)
    os.mkfifo(tmp_path / "watch")
    async with watching(tmp_path, MEMORY_PRESSURE_WATCH="/watch") as watch:
        await watch.until(lambda: looks(tmp_path) > 5)
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in (captured.out + captured.err).splitlines()]
    sensors = sensors_module.Sensors(tmp_path, tmp_path)
    steering = ", ".join(each.name for each in sensors.read().temperatures)
    (found,) = [line for line in lines if "sensors found" in str(line)]
    assert f"{len(sensors.probes)} sensors found; acting on {steering}" in found.values()
    assert found["triggers"] == "memory.watch"
    told = [(line["name"], line["unit"], line["source"]) for line in lines if "source" in line]
    assert told == [(each.name, each.unit, each.source) for each in sensors.probes], "each of them once"


async def test_a_sensor_that_comes_later_is_logged_once_and_acted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    log.configure("info", "json")
    monkeypatch.setattr(sensors_module, "_FIND_S", 0.0)
    tree = Sysfs(tmp_path)
    async with watching(tmp_path) as watch:
        await watch.until(lambda: len(watch.monitor.levels) > 0)
        tree.zone(0, "cpu-thermal", 99.0, {"passive": 85.0})
        await watch.until(lambda: watch.monitor.level is not Level.NOMINAL)
        await asyncio.sleep(0.1)  # several looks
    captured = capsys.readouterr()
    told = [line for line in (captured.out + captured.err).splitlines() if "a sensor has come" in line]
    assert len(told) == 1
    assert "thermal_zone0:cpu-thermal" in told[0]
