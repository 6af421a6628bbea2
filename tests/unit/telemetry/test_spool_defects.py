"""What edged asks of its spool and no spool takes: it costs itself, and nothing that is kept or comes later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from edged import clock
from edged.events import Event, Severity
from edged.facts import Executed
from edged.telemetry.messages import Lost
from edged.telemetry.recorder import DefectError, NotKeptError, Recorder
from edged.telemetry.spool import Spool, Standing
from edged.telemetry.spool_facts import Facts
from edged.telemetry.spool_file import NAME

DEFECTS = (KeyError("of edged"), AttributeError("of edged"), RecursionError("of edged"))
NOT_UTF_8 = b"/srv/\xff".decode(errors="surrogateescape")
"""As Python gives the name of a file: JSON has no word for it."""


def failing(error: Exception) -> object:
    def fails(_spool: Spool) -> None:
        raise error

    return fails


def happen(recorder: Recorder, message: str) -> None:
    recorder.tell(Event(1, clock.wall(), Severity.WARNING, "code", "subject", message, {}))


def close_window(recorder: Recorder, model: str = "digits") -> None:
    recorder.add(Executed(model, 1, "fp32", 1, (0.001,), 0.002, 7))
    recorder.close_window()


@pytest_asyncio.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[Recorder]:
    """One that has kept an event and a window."""
    found = Recorder(tmp_path, 2**23, 300, 2**30)
    found.set_aside = pytest.fail
    happen(found, "first")
    close_window(found)
    await found.store()
    yield found
    await found.close()


async def kept(recorder: Recorder) -> Standing:
    return await recorder.do(Spool.standing)


@pytest.mark.parametrize("error", DEFECTS, ids=repr)
async def test_a_defect_of_edged_costs_nothing_that_is_kept_and_moves_no_file(tmp_path, recorder, error, monkeypatch):
    before = await kept(recorder)
    names = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr("edged.telemetry.spool_file.set_aside", lambda *_: pytest.fail("it is moved"))
    for _ in range(2):
        with pytest.raises(DefectError, match="of edged"):
            await recorder.do(failing(error))
        assert type(error).__name__ in recorder.problem
    assert await kept(recorder) == before
    assert (recorder.problem, recorder.damage) == ("", "")
    assert {path.name for path in tmp_path.iterdir()} == names


async def test_nor_does_one_that_is_met_when_a_spool_is_opened(tmp_path, monkeypatch):
    spool = Spool(tmp_path, 2**23, 0)
    before = spool.standing()
    spool.close()
    content = (tmp_path / NAME).read_bytes()
    again = Recorder(tmp_path, 2**23, 300, 2**30)
    with monkeypatch.context() as patched:
        patched.delattr(Facts, "totals")
        with pytest.raises(DefectError, match="totals"):
            await again.do(Spool.standing)
    assert (tmp_path / NAME).read_bytes() == content
    assert (await kept(again)).epoch == before.epoch
    await again.close()


async def test_a_damaged_spool_that_meets_a_defect_is_set_aside_by_the_next_that_is_asked(tmp_path):
    (tmp_path / NAME).write_bytes(b"not a database" * 1000)
    recorder, told = Recorder(tmp_path, 2**23, 300, 2**30), []
    recorder.set_aside = told.append
    with pytest.raises(DefectError):
        await recorder.do(failing(KeyError("of edged")))
    assert (tmp_path / NAME).read_bytes() == b"not a database" * 1000
    happen(recorder, "next")
    await recorder.store()
    await recorder.close()
    assert len(told) == 1
    assert (tmp_path / "spool.damaged.db").read_bytes() == b"not a database" * 1000


async def test_an_event_that_no_spool_takes_is_lost_and_holds_up_none(recorder):
    before = await kept(recorder)
    for message in (NOT_UTF_8, "second", NOT_UTF_8, "third"):
        happen(recorder, message)
    await recorder.store()
    assert (await kept(recorder)).events == before.events + 2
    assert recorder.lost == Lost(events=2)
    close_window(recorder)
    await recorder.store()
    assert (recorder.lost, (await kept(recorder)).lost) == (Lost(), Lost(events=2))


async def test_a_window_that_no_spool_takes_is_lost_and_holds_up_none(recorder):
    before = await kept(recorder)
    close_window(recorder, model=NOT_UTF_8)
    happen(recorder, "second")
    await recorder.store()
    assert ((await kept(recorder)).events, recorder.lost) == (before.events + 1, Lost(windows=1))
    close_window(recorder)
    await recorder.store()
    after = await kept(recorder)
    assert (after.epoch, after.windows, after.lost) == (before.epoch, before.windows + 1, Lost(windows=1))
    assert recorder.lost == Lost()


async def test_each_is_logged_once(recorder):
    happen(recorder, NOT_UTF_8)
    close_window(recorder, model=NOT_UTF_8)
    with capture_logs() as logged:
        for _ in range(3):
            await recorder.store()
    assert [each["event"] for each in logged] == ["the spool met a defect of edged"] * 2


async def test_a_disk_that_takes_nothing_is_no_defect(tmp_path):
    (tmp_path / "file").write_text("in the way")
    recorder = Recorder(tmp_path / "file", 2**23, 300, 2**30)
    happen(recorder, "first")
    await recorder.store()
    with pytest.raises(NotKeptError) as found:
        await kept(recorder)
    assert not isinstance(found.value, DefectError)
    assert recorder.lost == Lost()
    (tmp_path / "file").unlink()
    await recorder.store()
    assert (await kept(recorder)).events == 1
    await recorder.close()
