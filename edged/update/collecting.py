"""Takes out of the store what no course needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from edged.errors import EdgedError
from edged.events import Severity
from edged.models.library import STORE
from edged.models.store import Collected, Key
from edged.update.machine import Ref, State
from edged.update.shop import Shop


async def collect(shop: Shop, given_up: Collection[Key] = ()) -> Collected:
    """What is `_needed` stays but for `given_up`, the rest is forgotten too. Raises OSError and EdgedError.

    Nothing is taken out by a journal that stands in: the one that survives may need it.
    """
    if shop.ledger.journal.stands_in:
        return Collected((), 0, 0)
    store = shop.library.store
    among = await asyncio.to_thread(store.keys)  # before it is asked what is needed: what is wanted later stays
    keep = (await _needed(shop)).difference(given_up)
    for each in shop.residency.known():
        if each.source.origin == STORE and (each.name, each.revision) not in keep:
            shop.residency.forget(each)
    return await asyncio.to_thread(store.collect, among, keep)


async def make_room(shop: Shop, why: str, given_up: Collection[Key] = ()) -> None:
    """Collects, and tells what came of it; `why` belongs to that.

    `given_up`: downloads, none of them under way, that another one needs the room of.
    """
    try:
        found = await collect(shop, given_up)
    except (EdgedError, OSError) as error:
        text = f"the store could not be collected: {error}"
        shop.events.record(Severity.WARNING, "store_not_collected", "store", text)
        return
    text = f"{found.bytes >> 10} KiB that nothing needs any more were taken out of the store: {why}"
    names = ", ".join(f"{model} revision {revision}" for model, revision in found.revisions)
    details = {"revisions": names, "blobs": found.blobs, "bytes": found.bytes}
    shop.events.record(Severity.INFO, "store_collected", "store", text, **details)


async def _needed(shop: Shop) -> set[Key]:
    """The models' revisions that serve, are to serve again, served before, are fetched or half so, and what is loaded.

    An administrator may have loaded what no course names. Raises EdgedError.
    """
    states = await shop.ledger.do(shop.ledger.journal.states)
    loaded = {(each.name, each.revision) for each in shop.residency.all() if each.loaded}
    return loaded | {(each.model, ref.revision) for each in states.values() for ref in _refs(each)}


def _refs(state: State) -> list[Ref]:
    refs = [state.serving, state.intended, state.previous, state.older, state.target, state.kept]
    return [ref for ref in refs if ref is not None]
