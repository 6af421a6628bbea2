"""The journal asked from the loop, by somebody who gives up."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edged.errors import Code, EdgedError
from edged.update.journal import Journal
from edged.update.shop import Ledger


async def test_a_question_that_fails_after_whoever_asked_has_gone_is_no_defect(tmp_path: Path):
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    (tmp_path / "state").mkdir()
    ledger = Ledger(Journal(tmp_path / "state", tmp_path / "runtime"))
    begun, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def fail() -> NoReturn:
        loop.call_soon_threadsafe(begun.set)
        goes_on.wait(30)
        raise EdgedError(Code.JOURNAL_UNWRITABLE, "the disk is read-only")

    asks = asyncio.create_task(ledger.do(fail))
    await begun.wait()
    asks.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asks
    goes_on.set()
    await ledger.close()
    await asyncio.sleep(0)
    gc.collect()
    assert not told
