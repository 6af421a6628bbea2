"""A serving revision without a worker that another one is to replace: it makes way, and is back where that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.courses import TWO, make_shop
from support.polling import until_async
from support.standins import manifest, settle

from edged.changes import Changes
from edged.config.settings import Workers
from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.models.resident import Resident
from edged.models.states import Source, State
from edged.system.hardware import Hardware
from edged.update import swap


class Loading:
    """A resident whose workers come up when the test says so, if ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: EdgedError | None) -> None:
        self.tries: list[asyncio.Future[NoReturn]] = []
        self._error = error
        monkeypatch.setattr("edged.models.resident.start_worker", self._start)
        source = Source(Path("/nowhere"), manifest(variants=["only"]), "factory")
        self.resident = Resident(
            source, Hardware("generic"), {"onnxruntime": "1"}, Workers(), Changes(), EventLog(10), _nobody
        )

    async def _start(self, *_: object) -> NoReturn:
        loads: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        if self._error is not None:
            loads.set_exception(self._error)
        self.tries.append(loads)
        return await loads


async def _nobody(*_: object) -> Any:
    raise AssertionError("nothing is loaded here")


LACKS = EdgedError(Code.DEVICE_UNAVAILABLE, "its device is away")
DIES = EdgedError(Code.WORKER_CRASHED, "killed by SIGABRT")


@pytest.mark.parametrize("error", [None, LACKS, DIES], ids=["loads for long", "waits for its device", "crashes"])
async def test_what_has_no_worker_makes_way_and_loads_again_where_it_is_to_take_over(tmp_path, monkeypatch, error):
    shop, loading = make_shop(tmp_path), Loading(monkeypatch, error)
    old = loading.resident
    old.start()
    await until_async(lambda: loading.tries, "it loads")
    refused: list[bool] = []
    watching = asyncio.create_task(_watch(old, refused))
    await settle()
    await swap.step_aside(old, TWO, shop)
    tries = len(loading.tries)
    assert loading.tries[-1].done(), "nothing of it comes up later"
    await settle()
    assert (old.resting, old.loaded, old.state) == (True, True, State.UNAVAILABLE)
    assert old.reason == "revision 2 takes its place; requests wait"
    assert len(loading.tries) == tries
    assert not any(refused)
    old.wake(takes_over=True)
    await until_async(lambda: len(loading.tries) > tries, "it loads again")
    watching.cancel()
    await old.stop()
    await shop.ledger.close()


async def _watch(resident: Resident, refused: list[bool]) -> None:
    """Whether somebody who waits from the first word of the change on would have been refused."""
    while True:
        await resident.changes.after(resident.changes.count)
        refused.append(not resident.expected)


async def test_what_makes_way_is_not_lost_where_the_update_is_given_up_meanwhile(tmp_path, monkeypatch):
    shop, loading = make_shop(tmp_path), Loading(monkeypatch, None)
    old = loading.resident
    old.start()
    await until_async(lambda: loading.tries, "it loads")
    aside = asyncio.create_task(swap.step_aside(old, TWO, shop))
    await asyncio.sleep(0)
    assert not aside.done()
    aside.cancel()
    await asyncio.gather(aside, return_exceptions=True)
    old.wake(takes_over=True)
    await until_async(lambda: len(loading.tries) == 2, "it loads again")
    assert loading.tries[0].cancelled()
    await old.stop()
    await shop.ledger.close()


async def test_what_somebody_unloads_does_not_stand_by(tmp_path, monkeypatch):
    shop, loading = make_shop(tmp_path), Loading(monkeypatch, LACKS)
    old = loading.resident
    old.start()
    await until_async(lambda: loading.tries, "it loads")
    old.leave("somebody asked for that")
    with pytest.raises(EdgedError, match="revision 1 is unloading"):
        await swap.step_aside(old, TWO, shop)
    await old.stop()
    assert old.state is State.UNAVAILABLE
    await swap.step_aside(old, TWO, shop)  # it has made way by now
    assert not old.resting
    await shop.ledger.close()
