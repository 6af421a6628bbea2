"""What the agent keeps in the journal for its next life: what was heard of the repository, what workers took."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.courses import make_shop
from support.polling import until_async

from edged.errors import Code, EdgedError
from edged.update import peaks
from edged.update.heard import Heard


def test_a_role_that_a_repository_does_not_tell_of_keeps_what_was_accepted():
    heard = Heard()
    heard.take({"event": "metadata", "roles": {"root": 3, "targets": 7, "snapshot": 9}})
    heard.take({"event": "metadata", "roles": {"root": 4, "snapshot": 9}})
    assert heard.roles == {"root": "4", "targets": "7", "snapshot": "9"}


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
