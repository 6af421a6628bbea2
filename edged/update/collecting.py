"""Takes out of the store what no course needs any more."""

from __future__ import annotations

import asyncio

from edged.models.store import Collected
from edged.update.machine import Ref, State
from edged.update.shop import Shop


async def collect(shop: Shop) -> Collected:
    """What serves, what served before and what is being fetched stays. Raises OSError and EdgedError."""
    states = await shop.ledger.do(shop.ledger.journal.states)
    keep = {(each.model, ref.revision) for each in states.values() for ref in _refs(each)}
    return await asyncio.to_thread(shop.library.store.collect, keep)


def _refs(state: State) -> list[Ref]:
    return [ref for ref in (state.serving, state.previous, state.older, state.target) if ref is not None]
