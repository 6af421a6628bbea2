"""Takes out of the store what no course needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from edged.errors import EdgedError
from edged.events import Severity
from edged.models.library import STORE
from edged.models.store import Collected, Key, Store
from edged.update.line import download
from edged.update.machine import Ref, State
from edged.update.shop import Shop


async def collect(shop: Shop, given_up: Collection[Key] = ()) -> Collected:
    """What is `_needed` stays, the rest is forgotten too. Raises OSError and EdgedError.

    Of those that are `given_up` goes what has been fetched, where they are still downloads; what is installed is none.
    Nothing is taken out by a journal that stands in: the one that survives may need it.
    """
    if shop.ledger.journal.stands_in:
        return Collected((), 0, 0)
    store = shop.library.store
    among = await asyncio.to_thread(store.keys)  # before it is asked what is needed: what is wanted later stays
    states = await shop.ledger.do(shop.ledger.journal.states)
    keep = _needed(shop, states.values())
    given_up = [key for key in map(download, states.values()) if key is not None and key in given_up]
    for each in shop.residency.known():
        if each.source.origin == STORE and (each.name, each.revision) not in keep:
            shop.residency.forget(each)
    return await asyncio.to_thread(_take_out, store, among, keep, given_up)


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


def _take_out(store: Store, among: Collection[Key], keep: Collection[Key], given_up: Collection[Key]) -> Collected:
    for model, revision in given_up:
        store.discard_staging(model, revision)
    return store.collect(among, keep)


def _needed(shop: Shop, states: Iterable[State]) -> set[Key]:
    """The models' revisions that serve, are to serve again, served before, are fetched or half so, and what is loaded.

    An administrator may have loaded what no course names.
    """
    loaded = {(each.name, each.revision) for each in shop.residency.all() if each.loaded}
    return loaded | {(each.model, ref.revision) for each in states for ref in _refs(each)}


def _refs(state: State) -> list[Ref]:
    refs = [state.serving, state.intended, state.previous, state.older, state.target, state.kept]
    return [ref for ref in refs if ref is not None]
