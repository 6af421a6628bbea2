"""The recorder: whatever the disk does, what was counted is counted, and nothing waits for the disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from support.polling import until_async

from edged import clock
from edged.events import Event, EventLog, Severity
from edged.facts import Executed
from edged.telemetry import intake
from edged.telemetry import recorder as module
from edged.telemetry.messages import Telemetry
from edged.telemetry.recorder import DefectError, NotKeptError, Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.window import Window

MIB = 2**20


@contextlib.asynccontextmanager
async def recording(folder: Path, **options: float) -> AsyncIterator[Recorder]:
    found = Recorder(folder, 8 * MIB, options.get("window_s", 300), int(options.get("daily_write_bytes", 64 * MIB)))
    try:
        yield found
    finally:
        await found.close()


def executed() -> Executed:
    return Executed("digits", 1, "fp32", 1, (0.001,), 0.002, 7)


async def windows(recorder: Recorder) -> list[Telemetry]:
    rows = await recorder.do(Spool.take, 64, coarse=False)
    return [msgspec.json.decode(row.payload, type=Telemetry) for row in rows if row.kind == "window"]


def answered(found: list[Telemetry]) -> list[int]:
    return [sum(model.codes["ok"] for model in each.window.models) for each in found]


async def close_with(recorder: Recorder, requests: int) -> None:
    for _ in range(requests):
        recorder.add(executed())
    recorder.close_window()
    await recorder.store()


async def test_windows_are_stored_one_by_one(tmp_path):
    async with recording(tmp_path / "t") as recorder:
        await close_with(recorder, 2)
        await close_with(recorder, 3)
        assert answered(await windows(recorder)) == [2, 3]


async def test_while_the_disk_takes_nothing_windows_are_merged_and_then_stored(tmp_path):
    (tmp_path / "t").write_text("in the way")
    async with recording(tmp_path / "t") as recorder:
        await close_with(recorder, 2)
        assert str(tmp_path / "t") in recorder.problem
        await close_with(recorder, 3)
        (tmp_path / "t").unlink()
        await close_with(recorder, 4)
        assert recorder.problem == ""
        found = await windows(recorder)
    assert answered(found) == [9]
    assert found[0].totals.models[0].codes == {"ok": 9}


async def test_events_wait_for_the_disk_within_bounds(tmp_path):
    (tmp_path / "t").write_text("in the way")
    events = EventLog(16)
    async with recording(tmp_path / "t") as recorder:
        events.listen(recorder.tell)
        for number in range(1000):
            events.record(Severity.WARNING, "worker_crashed", "digits", f"number {number}")
        assert recorder.lost.events == 1000 - intake.PER_HOUR
        await recorder.store()
        (tmp_path / "t").unlink()
        await recorder.store()
        standing = await recorder.do(Spool.standing)
        assert standing.events == intake.PER_HOUR


async def test_what_was_lost_of_a_storm_is_told_the_broker_and_how_an_update_ended_is_not_lost(tmp_path):
    events = EventLog(16)
    async with recording(tmp_path / "t") as recorder:
        events.listen(recorder.tell)
        for number in range(300):
            events.record(Severity.INFO, "worker_restarted", "digits", f"number {number}")
        await recorder.store()
        events.record(Severity.ERROR, "rolled_back", "digits", "revision 8 went back to 7")
        lost = 300 - (intake.PER_HOUR - intake.SPARED)
        assert recorder.lost.events == lost
        await close_with(recorder, 1)
        assert recorder.lost.events == 0, "the spool counts them now"
        assert (await recorder.do(Spool.standing)).events == 300 - lost + 1
        while not (found := await windows(recorder)):  # events go out first
            rows = await recorder.do(Spool.take, 64, coarse=False)
            await recorder.do(Spool.acknowledge, [row.last for row in rows])
        assert found[0].lost.events == lost


async def test_what_was_lost_is_told_once_the_disk_takes_it(tmp_path):
    (tmp_path / "t").write_text("in the way")
    async with recording(tmp_path / "t") as recorder:
        recorder._events.lost = 5
        await close_with(recorder, 1)
        assert recorder.lost.events == 5
        (tmp_path / "t").unlink()
        await close_with(recorder, 1)
        assert (recorder.lost.events, (await windows(recorder))[0].lost.events) == (0, 5)


async def test_a_spool_that_is_damaged_while_it_runs_is_made_anew(tmp_path):
    async with recording(tmp_path / "t") as recorder:
        await close_with(recorder, 2)
        before = (await recorder.do(Spool.standing)).epoch
        for pragma in ("wal_checkpoint(TRUNCATE)", "shrink_memory"):
            await recorder.do(lambda spool, pragma=pragma: spool._db.execute(f"PRAGMA {pragma}").fetchall())
        database = tmp_path / "t/spool.db"
        database.write_bytes(b"\xff" * database.stat().st_size)
        await close_with(recorder, 3)
        assert "set aside" in recorder.damage
        assert answered(await windows(recorder)) == [3]
        assert (await recorder.do(Spool.standing)).epoch > before


@pytest.mark.parametrize("everywhere", [False, True])
async def test_memory_that_is_short_is_neither_damage_nor_a_defect(tmp_path, everywhere: bool):
    def needs_much(spool: Spool) -> None:
        file = next(row[2] for row in spool._db.execute("PRAGMA database_list"))
        if file or everywhere:
            raise MemoryError

    async with recording(tmp_path / "t") as recorder:
        await close_with(recorder, 2)
        with pytest.raises(NotKeptError) as raised:
            await recorder.do(needs_much)
        assert not isinstance(raised.value, DefectError)
        assert answered(await windows(recorder)) == [2]
        assert not recorder.damage


async def test_damage_that_memory_does_not_suffice_to_look_into_moves_nothing(tmp_path):
    def fails(spool: Spool) -> None:
        file = next(row[2] for row in spool._db.execute("PRAGMA database_list"))
        raise ValueError("damage, or a defect") if file else MemoryError

    async with recording(tmp_path / "t") as recorder:
        await close_with(recorder, 2)
        with pytest.raises(NotKeptError, match="not enough memory"):
            await recorder.do(fails)
        assert answered(await windows(recorder)) == [2]


async def test_what_is_asked_of_a_spool_that_cannot_be_opened_is_refused(tmp_path):
    (tmp_path / "t").write_text("in the way")
    async with recording(tmp_path / "t") as recorder:
        with pytest.raises(NotKeptError, match="takes no telemetry"):
            await recorder.do(Spool.standing)
        (tmp_path / "t").unlink()


async def test_the_open_window_is_stored_at_the_end(tmp_path):
    async with recording(tmp_path / "t") as recorder:
        recorder.add(executed())
    async with recording(tmp_path / "t") as recorder:
        assert answered(await windows(recorder)) == [1]


async def test_when_the_writes_of_a_day_are_used_up_windows_are_long(tmp_path):
    async with recording(tmp_path / "t", daily_write_bytes=3 * module._WRITE_BYTES) as recorder:
        assert recorder._may_write()
        for _ in range(3):
            await close_with(recorder, 1)
        assert not recorder._may_write()
        recorder._day_began_s -= module._DAY_S
        assert recorder._may_write(), "another day"


async def test_what_a_hostile_name_brings_into_an_event_is_cut(tmp_path):
    async with recording(tmp_path / "t") as recorder:
        recorder.tell(Event(1, clock.wall(), Severity.INFO, "c", "s", "x" * 10**6, {"k": "v" * 10**6}))
        await recorder.store()
        (row,) = await recorder.do(Spool.take, 1, coarse=False)
        assert len(row.payload) < 4000


async def running(recorder: Recorder, so: Callable[[], Awaitable[bool]]) -> None:
    """Lets it run until something is so."""
    task = asyncio.create_task(recorder.run())
    try:
        await until_async(so, "the recorder has come so far", again_s=0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_while_it_is_held_what_happens_is_merged_in_memory(tmp_path):
    async with recording(tmp_path / "t", window_s=0.02) as recorder:
        closed: list[Window] = []
        recorder.closed = closed.append
        recorder.limit(coarse=True, held=True)
        recorder._coarse = False  # windows as short as otherwise

        async def three_are_closed() -> bool:
            recorder.add(executed())
            return len(closed) >= 3

        await running(recorder, three_are_closed)
        assert not (tmp_path / "t").exists()
        recorder.limit(coarse=False, held=False)

        async def it_is_kept() -> bool:
            return (tmp_path / "t").exists() and bool((await recorder.do(Spool.standing)).windows)

        await running(recorder, it_is_kept)
        recorder.close_window()
        counted = sum(sum(each.codes["ok"] for each in window.models) for window in closed)
        await recorder.store()
        assert sum(answered(await windows(recorder))) == counted


async def test_a_disk_that_is_nearly_full_gets_fewer_windows(tmp_path):
    async with recording(tmp_path / "t", window_s=300) as recorder:
        for _ in range(4):
            await close_with(recorder, 1)
        recorder.limit(coarse=True, held=False)
        assert not recorder._may_write(), "windows are long"

        async def one_is_left() -> bool:
            return (await recorder.do(Spool.standing)).windows == 1

        await running(recorder, one_is_left)
        assert answered(await windows(recorder)) == [4]


async def test_a_disk_that_went_straight_into_the_reserve_is_coarsened_once_it_is_let_go(tmp_path):
    async with recording(tmp_path / "t") as recorder:
        for _ in range(13):
            await close_with(recorder, 1)
        recorder.limit(coarse=True, held=True)
        recorder.limit(coarse=True, held=False)
        assert recorder._to_coarsen


async def test_limits_that_stay_wake_nobody(tmp_path):
    async with recording(tmp_path / "t") as recorder:
        recorder.limit(coarse=False, held=False)
        assert not recorder._new.is_set()
        recorder.limit(coarse=True, held=False)
        assert recorder._new.is_set()


async def test_a_spool_is_made_by_the_time_that_is_trusted(tmp_path):
    async with recording(tmp_path / "t") as recorder:
        recorder.now_ms = lambda: 1_790_000_000_000
        assert await recorder.do(Spool.remembers_since_ms, 2**45, clock_synchronized=False) == 1_790_000_000_000
