"""Takes out of the store what no course needs any more."""

from __future__ import annotations

import asyncio

from edged.models.store import Collected
from edged.update.machine import Ref, State
from edged.update.shop import Shop


async def collect(shop: Shop) -> Collected:
    """What is `needed` stays. Raises OSError and EdgedError."""
    return await asyncio.to_thread(shop.library.store.collect, await needed(shop))


async def needed(shop: Shop) -> set[tuple[str, int]]:
    """The models' revisions that serve, are to serve again, served before or are being fetched. Raises EdgedError."""
    states = await shop.ledger.do(shop.ledger.journal.states)
    return {(each.model, ref.revision) for each in states.values() for ref in _refs(each)}


def _refs(state: State) -> list[Ref]:
    refs = (state.serving, state.intended, state.previous, state.older, state.target)
    return [ref for ref in refs if ref is not None]
