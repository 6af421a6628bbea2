"""Which downloads come first where there is room for some only: by their models' names, so that no two take turns.

What has come of one that is ahead stays, and so does the room for what it lacks, as long as all of it would fit; what
is behind may be taken. Whoever finds no room then waits, and has fetched nothing in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import msgspec

from edged.errors import EdgedError
from edged.models.store import Key
from edged.update.machine import Phase, State
from edged.update.shop import Shop


class Download(msgspec.Struct, frozen=True):
    """What has come of a revision that is still wanted, and what is to come."""

    key: Key
    here_bytes: int
    lacking_bytes: int | None
    """None: nobody knows, since its manifest has not come."""


class Line(msgspec.Struct, frozen=True):
    """How the downloads of others stand to that of one model."""

    ahead: tuple[Download, ...]
    behind: tuple[Download, ...]

    @property
    def lacking_bytes(self) -> int:
        """The room that is to be left to those that are ahead."""
        return sum(each.lacking_bytes or 0 for each in self.ahead)


def download(state: State) -> Key | None:
    """What is fetched, or has come in part and is wanted still; None where nothing is. Pure."""
    ref = state.target if state.phase is Phase.FETCHING else state.kept
    return None if ref is None else (state.model, ref.revision)


def line(model: str, others: Iterable[Download], room_bytes: int) -> Line:
    """How `others` stand to the download of `model`; `room_bytes`: what there would be if nothing had come. Pure.

    One that is whole is on its way into the store, and neither wants more nor is taken.
    """
    ahead, behind = [], []
    for each in sorted(others, key=lambda each: each.key):
        lacks = each.lacking_bytes
        if each.key[0] < model and lacks is not None and each.here_bytes + lacks <= room_bytes:
            ahead.append(each)
            room_bytes -= each.here_bytes + lacks
        elif lacks != 0:
            behind.append(each)
    return Line(tuple(ahead), tuple(behind))


async def stand_in_line(shop: Shop, model: str) -> Line:
    """How the downloads of other models stand to that of `model`. Raises EdgedError, or OSError."""
    states = await shop.ledger.do(shop.ledger.journal.states)
    return await asyncio.to_thread(_look, shop, model, states.values())


def _look(shop: Shop, model: str, states: Iterable[State]) -> Line:
    store, found = shop.library.store, []
    for key in map(download, states):
        if key is not None:
            with contextlib.suppress(EdgedError):  # a name under which nothing was fetched
                found.append(Download(key, store.staged_bytes(*key), store.lacking_bytes(*key)))
    room_bytes = store.room_bytes() + sum(each.here_bytes for each in found)
    return line(model, [each for each in found if each.key[0] != model], room_bytes)
