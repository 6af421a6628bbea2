"""Whatever is another in the file of the spool: it goes on with what can be read, or with a new one; it never ends."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest

from edged import clock
from edged.facts import Executed, Reading
from edged.telemetry import spool_file
from edged.telemetry.aggregate import Aggregate
from edged.telemetry.messages import Command, Happening, Result, Telemetry
from edged.telemetry.orders import Accepted, Order
from edged.telemetry.recorder import Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.spool_file import NAME
from edged.telemetry.window import Window

NOW_MS = 1_790_000_000_000
HAPPENING = Happening(at_ms=1, severity="info", code="started", subject="edged", message="edged serves")


def order(number: int, answer: Result | None = None) -> Order:
    command = Command(
        schema=1, command="report", fleet="shops", issued_ms=NOW_MS, expires_ms=2 * NOW_MS, nonce=f"{number:016}"
    )
    return Order(command=command, operator="alice", envelope=b"signed", topics=("a/result",), answer=answer)


def used(folder: Path) -> None:
    """A spool that has been in use."""
    spool = Spool(folder, 2**23, NOW_MS)
    for number in range(20):
        spool.append_window(window(number))
        spool.append_event(HAPPENING, kept=number % 2 == 0)
    for number in range(5):
        spool.orders.accept(order(number, Result(device="till-7", status="done")), NOW_MS)
    spool.take(3, coarse=False)
    spool.close()


def window(number: int) -> Window:
    aggregate = Aggregate(0.0, 0)
    for model in range(3):
        aggregate.add(Executed(f"model-{model}", 1, "fp32", 3, (0.001 * number,), 0.01, 5))
    aggregate.add(Reading("temperature_c", 50))
    return aggregate.close(300.0, 0, clock_synchronized=True)


def changed(folder: Path, *statements: str) -> None:
    """By somebody else; SQLite's own check is content with it."""
    database = sqlite3.connect(folder / NAME, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    assert database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    database.close()


async def use(recorder: Recorder) -> None:
    """All that the daemon asks of a spool. Raises where it ends, or goes on taking nothing."""
    for number in range(2):
        recorder.close_window()
        await recorder.store()
        assert not recorder.problem, recorder.problem
        nonce = random.randrange(10**9, 10**10)
        assert await recorder.do(lambda spool, nonce=nonce: spool.orders.accept(order(nonce), NOW_MS)) is Accepted.NEW
        await recorder.do(Spool.append_event, HAPPENING, kept=True)
        await recorder.do(Spool.remembers_since_ms, NOW_MS, clock_synchronized=True)
        await recorder.do(Spool.standing)
        await recorder.do(lambda spool: spool.orders.all())
        rows = await recorder.do(Spool.take, 64, coarse=number == 0, all_now=True)
        assert rows or recorder.damage
        await recorder.do(Spool.acknowledge, [row.last for row in rows])
        await recorder.do(Spool.coarsen)


FACTS = {
    "totals that are no JSON": "UPDATE facts SET value = substr(value, 2) WHERE name = 'totals'",
    "totals of another kind": """UPDATE facts SET value = '{"worker_restarts":"x"}' WHERE name = 'totals'""",
    "totals that are no text": "UPDATE facts SET value = CAST(X'7bff7d' AS TEXT) WHERE name = 'totals'",
    "no totals": "UPDATE facts SET name = 'totalr' WHERE name = 'totals'",
    "an epoch that is a word": "UPDATE facts SET value = 'q' || substr(value, 2) WHERE name = 'epoch'",
    "no epoch": "DELETE FROM facts WHERE name = 'epoch'",
    "a number that is a word": "UPDATE facts SET value = '4q' WHERE name = 'next'",
    "a number that has a row": "UPDATE facts SET value = '2' WHERE name = 'next'",
    "a number beyond all": "UPDATE facts SET value = '99999999999999999999' WHERE name = 'next'",
    "a time that is a word": "UPDATE facts SET value = 'x' WHERE name = 'made_ms'",
    "no time": "DELETE FROM facts WHERE name = 'made_ms'",
    "losses that are a word": "INSERT INTO facts VALUES ('lost_events', 'x')",
    "a column of another name": "ALTER TABLE rows RENAME COLUMN grade TO grad",
    "a column of another table": "ALTER TABLE nonces RENAME COLUMN expires_ms TO expire",
}


@pytest.mark.parametrize("opened", [False, True], ids=["at the start", "while it runs"])
@pytest.mark.parametrize("statement", FACTS.values(), ids=FACTS.keys())
async def test_what_is_not_what_was_written_is_set_aside_and_the_daemon_goes_on(tmp_path, statement, opened):
    used(tmp_path)
    recorder = Recorder(tmp_path, 2**23, 300, 2**30)
    if opened:
        await recorder.do(Spool.standing)
    changed(tmp_path, statement)
    told: list[str] = []
    recorder.set_aside = told.append
    await use(recorder)
    if not opened:  # what is kept in memory while it runs is not looked at again
        assert len(told) == 1
        assert str(tmp_path / "spool.damaged.db") in told[0]
        accepted = await recorder.do(lambda spool: spool.orders.accept(order(3), NOW_MS))
        since_ms = await recorder.do(Spool.remembers_since_ms, 2**45, clock_synchronized=False)
        assert accepted is Accepted.NEW, "a nonce is forgotten"
        assert since_ms > NOW_MS, "so what came before the new memory is refused"
    await recorder.close()
    again = Recorder(tmp_path, 2**23, 300, 2**30)
    await use(again)
    await again.close()


@pytest.mark.parametrize("statement", FACTS.values(), ids=FACTS.keys())
def test_it_is_found_when_the_spool_is_opened(tmp_path, statement):
    used(tmp_path)
    changed(tmp_path, statement)
    with pytest.raises(Exception) as found:  # noqa: PT011 - whatever says so
        Spool(tmp_path, 2**23, NOW_MS)
    assert spool_file.is_damage(found.value)


async def made_anew(folder: Path) -> str:
    """What is told of damage, once a window is kept."""
    recorder, told = Recorder(folder, 2**23, 300, 2**30), []
    recorder.set_aside = told.append
    recorder.close_window()
    await recorder.store()
    standing = await recorder.do(Spool.standing)
    await recorder.close()
    assert (recorder.problem, standing.windows) == ("", 1)
    assert len(told) <= 1
    return "".join(told)


async def test_a_damaged_spool_is_set_aside_and_told(tmp_path):
    used(tmp_path)
    spool = Spool(tmp_path, 2**23, NOW_MS)
    before = spool.epoch
    spool.close()
    content = bytearray((tmp_path / NAME).read_bytes())
    content[4096:] = random.Random(5).randbytes(len(content) - 4096)
    (tmp_path / NAME).write_bytes(content)
    assert str(tmp_path / "spool.damaged.db") in await made_anew(tmp_path)
    assert (tmp_path / "spool.damaged.db").read_bytes() == content
    spool = Spool(tmp_path, 2**23, NOW_MS)
    assert spool.epoch > before, "what comes now is ordered after what was there"
    spool.close()


@pytest.mark.parametrize(
    ("was", "found"), [(b"CREATE TABLE", b"CREATE TAB\xc5E"), (b"facts", b"f\xc5cts"), (b"facts", b"FactX")]
)
async def test_so_is_one_whose_schema_is_another(tmp_path, was, found):
    used(tmp_path)
    content = (tmp_path / NAME).read_bytes()
    assert was in content
    (tmp_path / NAME).write_bytes(content.replace(was, found))
    assert "set aside" in await made_anew(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000, bytes(range(1, 256)) * 400])
async def test_whatever_lies_there_a_spool_is_opened(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    assert ("set aside" in await made_anew(tmp_path)) == bool(content)


async def test_the_same_damage_is_told_as_often_as_there_is_any(tmp_path):
    recorder, told = Recorder(tmp_path, 2**23, 300, 2**30), []
    recorder.set_aside = told.append
    for count in (1, 2):
        await asyncio.get_running_loop().run_in_executor(recorder._thread, recorder._close)
        (tmp_path / NAME).write_bytes(b"not a database" * 1000)
        for _ in range(2):
            recorder.close_window()
            await recorder.store()
            assert len(told) == count
    await recorder.close()
    assert told[0] == told[1]


async def check_memory(folder: Path, noon_ms: int) -> None:
    """A spool was written at noon; the one that takes its place while the clock is behind remembers since then."""
    behind_ms = noon_ms - 6 * 3_600_000
    recorder = Recorder(folder, 2**23, 300, 2**30)
    recorder.now_ms = lambda: behind_ms
    assert await recorder.do(Spool.remembers_since_ms, behind_ms + 5, clock_synchronized=False) == behind_ms
    assert await recorder.do(Spool.remembers_since_ms, noon_ms + 5, clock_synchronized=True) == noon_ms
    await recorder.close()


@pytest.mark.parametrize("where", ["in the file", "in its log", "and the power went"])
async def test_what_is_set_aside_while_the_clock_is_behind_was_written_by_the_time_of_its_file(tmp_path, where):
    noon_ms = clock.wall_ms() + 86_400_000  # by the time of this test, too
    used(tmp_path / "was")
    database, others = tmp_path / NAME, sqlite3.connect(tmp_path / "was" / NAME, isolation_level=None)
    others.execute("UPDATE facts SET value = 'x' WHERE name = 'next'")
    if where == "in its log":  # which SQLite copies back when the file is closed, and the file has another time then
        shutil.copy(tmp_path / "was" / f"{NAME}-wal", tmp_path / f"{NAME}-wal")
        shutil.copy(tmp_path / "was" / NAME, database)
    others.close()
    if where != "in its log":
        shutil.copy(tmp_path / "was" / NAME, database)
    for path in tmp_path.glob("spool*"):
        os.utime(path, ns=(noon_ms * 10**6, noon_ms * 10**6))
    if where == "and the power went":
        spool_file.set_aside(tmp_path, "it was damaged")
    await check_memory(tmp_path, noon_ms)
    assert (tmp_path / "spool.damaged.db").exists()


ROWS = {
    "first": "UPDATE rows SET first = 'x' WHERE last = 11",
    "first that is later": "UPDATE rows SET first = 90 WHERE last = 11",
    "kind": "UPDATE rows SET kind = CAST(X'77ff' AS TEXT) WHERE last = 11",
    "span": "UPDATE rows SET span_ms = 'x' WHERE last = 11",
    "grade": "UPDATE rows SET grade = 'x' WHERE last = 11",
    "payload": "UPDATE rows SET payload = 5 WHERE last = 11",
    # A frame of zstd whose eight bytes of length say that it holds 2^62 bytes.
    "payload's length": "UPDATE rows SET payload = CAST(X'28b52ffde40000000000000040' AS BLOB) WHERE last = 11",
}


@pytest.mark.parametrize("opened", [False, True], ids=["at the start", "while it runs"])
@pytest.mark.parametrize("statement", ROWS.values(), ids=ROWS.keys())
async def test_a_row_that_is_none_costs_that_row(tmp_path, statement, opened):
    used(tmp_path)
    recorder = Recorder(tmp_path, 2**23, 300, 2**30)
    if opened:
        await recorder.do(Spool.standing)
    changed(tmp_path, statement)
    rows = await recorder.do(Spool.take, 64, coarse=False)
    assert (await recorder.do(Spool.standing)).lost.windows in ((0, 1) if opened else (1,))
    found = [msgspec.json.decode(row.payload, type=Telemetry) for row in rows if row.kind == "window"]
    assert {each.last for each in found} >= set(range(1, 41, 2)) - {11}
    await use(recorder)
    assert not recorder.damage
    await recorder.close()


async def test_a_file_that_sqlite_would_only_read_is_set_aside(tmp_path):
    used(tmp_path)
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")
    recorder = Recorder(tmp_path, 2**23, 300, 2**30)
    await use(recorder)
    assert "write version is [3]" in recorder.damage
    await recorder.close()


def test_an_order_that_is_no_document_costs_that_order(tmp_path):
    used(tmp_path)
    changed(
        tmp_path,
        "UPDATE orders SET document = 5 WHERE number = 2",
        "UPDATE orders SET document = NULL, nonce = CAST(X'ff' AS TEXT) WHERE number = 3",
    )
    spool = Spool(tmp_path, 2**23, NOW_MS)
    assert [int(each.command.nonce) for each in spool.orders.all()] == [0, 3, 4]
    spool.close()


async def check_flips(tmp_path: Path, count: int) -> None:
    chance = random.Random(seed := random.randrange(2**32))
    print(f"seed {seed}")  # noqa: T201 - to run it again
    used(tmp_path / "used")
    content = (tmp_path / "used" / NAME).read_bytes()
    places = [place for place, byte in enumerate(content) if byte]  # zeros are free room for the most part
    for number in range(count):
        folder = tmp_path / "flipped"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "used", folder)
        recorder = Recorder(folder, 2**23, 300, 2**30)
        if chance.random() < 0.2:
            await recorder.do(Spool.standing)
        flipped, place, bit = bytearray(content), chance.choice(places), chance.randrange(8)
        flipped[place] ^= 1 << bit
        with (folder / NAME).open("r+b") as file:
            file.write(flipped)
        try:
            await asyncio.wait_for(use(recorder), 60)
        except Exception as error:
            raise AssertionError(f"flip {number}: bit {bit} of byte {place}") from error
        finally:
            await recorder.close()


async def test_a_flipped_bit_never_ends_it(tmp_path):
    await check_flips(tmp_path, 40)


@pytest.mark.slow
async def test_many_flipped_bits_never_end_it(tmp_path):
    await check_flips(tmp_path, 3000)


def test_a_spool_of_an_older_release_that_ended_before_its_first_window_is_sound(tmp_path):
    """It wrote its totals with the first window, and events before."""
    spool = Spool(tmp_path, 2**23, NOW_MS)
    for _ in range(3):
        spool.append_event(HAPPENING, kept=True)
    epoch = spool.epoch
    spool.close()
    changed(tmp_path, "DELETE FROM facts WHERE name = 'totals'")
    spool = Spool(tmp_path, 2**23, NOW_MS)
    assert (spool.epoch, spool.standing().events) == (epoch, 3)
    spool.close()
