"""What the agent keeps in the journal for its next life: what was heard of the repository, what workers took."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from support.courses import NOW, make_shop
from support.polling import PATIENCE_S, until_async

from edged.errors import Code, EdgedError
from edged.update import heard as heards
from edged.update import peaks, plan
from edged.update.heard import Heard
from edged.update.holds import Left
from edged.update.issued import Issued
from edged.update.machine import Ref, State
from edged.update.policy import Decision
from edged.update.records import Committed, Key, Pin, Quarantined, Transition
from edged.update.share import Device, Kept, Share, Waited, Window
from edged.update.spending import Spending


def test_a_role_that_a_repository_does_not_tell_of_keeps_what_was_accepted():
    heard = Heard()
    heard.take({"event": "metadata", "roles": {"root": 3, "targets": 7, "snapshot": 9}})
    heard.take({"event": "metadata", "roles": {"root": 4, "snapshot": 9}})
    assert heard.roles == {"root": "4", "targets": "7", "snapshot": "9"}


def test_no_floor_is_ever_lowered():
    heard = Heard()
    heard.raise_floors({"m": 3})
    heard.raise_floors({"m": 2, "n": 1})
    assert heard.floors == {"m": 3, "n": 1}


class TestADaysBudget:
    async def test_is_kept_while_it_is_spent_and_after_each_fetch(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(heards, "_GATHER_S", 0.0)
        shop = make_shop(tmp_path)
        journal, heard = shop.ledger.journal, Heard()

        async def left() -> int:
            """What a start that follows now would have."""
            found = Heard()
            await found.recall(shop.ledger)
            return found.budget_bytes(10)

        async def until_left(bytes_left: int) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while await left() != bytes_left:
                    continue

        writes: list[str] = []
        keep = journal.keep_fact
        monkeypatch.setattr(journal, "keep_fact", lambda *fact: (writes.append(fact[0]), keep(*fact)))
        task = asyncio.create_task(heard.keep_spending(shop.ledger))
        heard.take({"event": "progress", "received": 2**20, "more": 2**20})
        await until_left(9 * 2**20)
        heard.take({"event": "progress", "received": 2**20 + 5, "more": 5})
        heard.take({"event": "refused", "received": 2**20 + 7, "more": 2})
        await until_left(9 * 2**20 - 7)
        heard.take({"event": "refused", "received": 3, "more": 3})  # another fetcher, which had no metadata yet
        await until_left(9 * 2**20 - 10)
        assert writes.count("roles") == 1, "what is as it was is not written again"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await shop.ledger.close()


async def test_what_workers_took_is_written_once_the_disk_takes_it_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(peaks, "_GATHER_S", 0.0)
    monkeypatch.setattr(peaks, "_AGAIN_S", 0.0)
    shop = make_shop(tmp_path)
    journal, keep = shop.ledger.journal, shop.ledger.journal.keep_fact
    failed: list[str] = []
    kept: list[str] = []

    def fail_once(name: str, document: bytes) -> None:
        if not failed:
            failed.append(name)
            raise EdgedError(Code.JOURNAL_UNWRITABLE, "the disk is full")
        keep(name, document)
        kept.append(name)

    monkeypatch.setattr(journal, "keep_fact", fail_once)
    shop.memory.recall({"k": 5})
    shop.memory.news.set()
    task = asyncio.create_task(peaks.keep(shop.memory, shop.ledger))
    await until_async(lambda: kept, "it is kept")
    assert failed
    assert await shop.ledger.do(journal.fact, "peaks") == b'{"k":5}'
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await shop.ledger.close()


async def test_what_a_later_release_has_added_to_a_window_hides_nothing_of_it(tmp_path: Path):
    shop, now = make_shop(tmp_path), NOW.replace(hour=12)
    windows = {"m": [{"start": "02:00", "duration_s": 3600, "zone": "utc", "season": "winter"}]}
    document = msgspec.json.encode({"windows": windows, "waited": {"m": {"revision": 2, "seconds": 40.0}}, "moon": 1})
    await shop.ledger.do(shop.ledger.journal.keep_fact, "share", document)
    share = Share(Device("d", "f", "c"), shop.ledger)
    await share.recall()
    assert not share.may_change("m", now)
    assert share.may_change("m", now.replace(hour=2, minute=30))
    wanted = plan.Wanted(model="m", revision=2, why="plan", jitter_s=40.0)
    go = Decision(go_for=2)
    assert share.after_jitter(go, wanted) is go, "what was waited is known too"
    await shop.ledger.close()


KEPT = (State, Transition, Quarantined, Committed, Pin, Kept, list[Left], Spending, Issued)


def test_the_release_before_reads_what_this_one_keeps_whatever_it_adds():
    """Each struct within passes over what it does not know, as a system that was rolled back has to."""
    strict, seen, left = list[str](), set[type](), list(msgspec.inspect.multi_type_info(KEPT))
    while left:
        found = left.pop()
        if isinstance(found, msgspec.inspect.StructType):
            if found.cls in seen:
                continue
            seen.add(found.cls)
            strict += [found.cls.__name__] if found.forbid_unknown_fields else []
            left += [field.type for field in found.fields]
        else:
            for name in ("types", "item_types", "item_type", "key_type", "value_type"):
                inner = getattr(found, name, ())
                left += inner if isinstance(inner, tuple) else [inner]
    assert {Window, Ref, Key, Waited} <= seen
    assert not strict
