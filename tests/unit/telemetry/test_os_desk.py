"""What the operating system's helper said stays until somebody has kept it, and is not waited for for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support.polling import until_async

from edged import clock
from edged.events import EventLog
from edged.intents import OsUpgrade
from edged.system.os_requests import REQUESTS, RESULTS, OsRequests, OsResult
from edged.telemetry import os_desk
from edged.telemetry.messages import Command, Result
from edged.telemetry.orders import Order
from edged.telemetry.os_desk import OsDesk

NONCE = "0123456789abcdef"
BEHIND = "fedcba9876543210"


class Desk:
    """A desk whose spool takes answers, or does not."""

    def __init__(self, state: Path) -> None:
        self.results = state / RESULTS
        self.requests = OsRequests(state, "")
        self.requests.make_folders()
        self.keeps = True
        self.known: set[str] | None = set()
        self.tried = 0
        self.looked = 0
        self.kept: list[Result] = []
        self.told: list[str] = []
        self.events = EventLog(16)
        self.desk = OsDesk(
            self.requests,
            lambda _, text: self.told.append(text),
            self.answer,
            self.keep,
            self.open_nonces,
            self.events,
            "till-7",
        )

    async def answer(self, _nonce: str, result: Result) -> bool:
        self.tried += 1
        if self.keeps:
            self.kept.append(result)
        return self.keeps

    async def keep(self, _order: Order) -> None:
        """It need not be kept here."""

    async def open_nonces(self) -> set[str] | None:
        self.looked += 1
        return self.known

    def say(self, status: str, at_ms: int = 0) -> Path:
        """As the helper does."""
        path = self.results / f"{NONCE}.json"
        result = OsResult(nonce=NONCE, command="os_upgrade", status=status, text="said", at_ms=at_ms or clock.wall_ms())
        path.write_bytes(msgspec.json.encode(result))
        return path

    def order(self, expires_ms: int = 0, nonce: str = NONCE) -> Order:
        now_ms = clock.wall_ms()
        command = Command(
            schema=1,
            command="os_upgrade",
            fleet="shops",
            issued_ms=0,
            expires_ms=expires_ms or now_ms + 60_000,
            nonce=nonce,
        )
        return Order(command=command, operator="alice", envelope=b"{}", topics=("t",), handed_on=True)

    async def until(self, condition: Callable[[], object]) -> None:
        await until_async(condition, "it stands so on the disk")


@pytest.fixture
async def desk(tmp_path, monkeypatch):
    monkeypatch.setattr(os_desk, "_LOOK_S", 0.01)
    monkeypatch.setattr(os_desk, "_LOOK_SLOWLY_S", 0.01)
    found = Desk(tmp_path)
    task = asyncio.create_task(found.desk.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_result_stays_until_its_answer_is_kept(desk):
    path = desk.say("done")
    desk.keeps, desk.known = False, {NONCE}
    await desk.desk.carry_out(OsUpgrade(), desk.order())
    await desk.until(lambda: desk.tried >= 2)
    assert path.exists()
    desk.keeps = True
    await desk.until(lambda: not path.exists())
    assert [each.status for each in desk.kept] == ["done"]


async def test_a_request_that_nobody_took_is_withdrawn_and_answered_when_that_can_be_kept(desk, monkeypatch):
    monkeypatch.setattr(os_desk, "_TAKEN_S", 0.0)
    desk.keeps = False
    await desk.desk.carry_out(OsUpgrade(), msgspec.structs.replace(desk.order(), handed_on=False))
    await desk.until(lambda: desk.tried >= 2)
    desk.keeps = True
    await desk.until(lambda: desk.kept)
    assert desk.kept[0].code == "unsupported"


async def test_a_request_that_comes_during_the_boot_waits_until_greenboot_has_judged_it(desk, monkeypatch):
    """Its checks, the tasks of a green and of a red boot: 180, 120 and 60 s."""
    await desk.desk.carry_out(OsUpgrade(), msgspec.structs.replace(desk.order(), handed_on=False))
    real, looked = clock.monotonic, 0

    def monotonic() -> float:
        nonlocal looked
        looked += 1
        return real() + 180.0 + 120.0 + 60.0

    monkeypatch.setattr(clock, "monotonic", monotonic)
    await desk.until(lambda: looked >= 10)
    desk.say("done")
    await desk.until(lambda: desk.kept)
    assert [each.status for each in desk.kept] == ["done"]


async def test_what_waits_behind_an_order_in_hand_is_not_withdrawn(desk, monkeypatch):
    """The helper looks into the folder between its runs, and one takes as long as the download of an image."""
    real, ahead_s, looked = clock.monotonic, 0.0, 0

    def monotonic() -> float:
        nonlocal looked
        looked += 1
        return real() + ahead_s

    monkeypatch.setattr(clock, "monotonic", monotonic)

    async def looks() -> None:
        enough = looked + 10
        await desk.until(lambda: looked >= enough)

    desk.known = {NONCE, BEHIND}
    request = desk.results.parent.parent / REQUESTS / f"{BEHIND}.json"
    desk.say("accepted")
    await desk.desk.carry_out(OsUpgrade(), desk.order())
    await desk.until(lambda: desk.told)
    await desk.desk.carry_out(OsUpgrade(), msgspec.structs.replace(desk.order(nonce=BEHIND), handed_on=False))
    ahead_s = 6 * 3_600.0
    await looks()
    desk.say("done")
    await desk.until(lambda: desk.kept)
    await looks()
    assert request.exists(), "the helper has its time again once it is free"
    ahead_s += os_desk._TAKEN_S
    await desk.until(lambda: len(desk.kept) == 2)
    assert [(each.nonce, each.code) for each in desk.kept] == [(NONCE, ""), (BEHIND, "unsupported")]
    assert not request.exists()


async def test_results_stay_while_it_is_not_known_who_waits_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr(os_desk, "_LOOK_SLOWLY_S", 0.01)
    found = Desk(tmp_path)
    found.known = None
    path = found.say("done")
    task = asyncio.create_task(found.desk.run())
    try:
        await found.until(lambda: found.looked >= 2)
        assert path.exists()
        found.known = set()
        await found.until(lambda: not path.exists())
        assert [each.code for each in found.events.after(0)] == ["os_result"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_helper_that_took_it_and_says_no_more_is_not_waited_for_for_ever(desk):
    desk.known = {NONCE}
    desk.say("accepted")
    await desk.desk.carry_out(OsUpgrade(), desk.order(expires_ms=clock.wall_ms() - 9 * 86_400_000))
    await desk.until(lambda: desk.kept)
    assert desk.kept[0].code == "failed"
