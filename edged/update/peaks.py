"""Keeps in the journal what workers were seen to take at most, for the next life of the daemon."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from edged.errors import EdgedError
from edged.models.memory import Memory
from edged.update.shop import Ledger

_FACT = "peaks"
# What is measured in a row, as at a start, is one write.
_GATHER_S = 5.0
# What could not be kept is tried again.
_AGAIN_S = 60.0


async def recall(memory: Memory, ledger: Ledger) -> None:
    """Takes what earlier lives measured; what cannot be read is measured anew."""
    with contextlib.suppress(EdgedError, msgspec.MsgspecError):
        document = await ledger.do(ledger.journal.fact, _FACT)
        memory.recall(msgspec.json.decode(document or b"{}", type=dict[str, int]))


async def keep(memory: Memory, ledger: Ledger) -> None:
    """Keeps what is new, until it is cancelled."""
    while True:
        await memory.news.wait()
        await asyncio.sleep(_GATHER_S)
        memory.news.clear()
        try:
            await ledger.do(ledger.journal.keep_fact, _FACT, msgspec.json.encode(dict(memory.peaks)))
        except EdgedError:  # a disk that takes nothing is told elsewhere
            await asyncio.sleep(_AGAIN_S)
            memory.news.set()
