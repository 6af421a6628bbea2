"""Which downloads come first where there is room for some only: by their models' names, so that no two take turns.

What has come of one that is ahead stays, and so does the room for what it lacks, as long as all of it would fit; what
is behind may be taken. Whoever finds no room then waits, and has fetched nothing in vain.

One of which nothing more comes, as where a chunk is not in the repository, stands behind one of which something does,
so that it holds nobody up for ever. Whether it is the repository that lacks something or a server that is away for a
while, nobody can tell: a link that comes and goes must not have two of them take each other's part again and again. So
tries in a row that brought nothing count by powers of two only. Where all fail alike all stay where they were; and
after one has been overtaken, the other one loses its place only to about as long a row, and the first one to one twice
as long: in n tries a part is taken 2·log₂ n times at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

import msgspec

from edged.errors import EdgedError
from edged.models.store import Key
from edged.update.machine import Phase, State
from edged.update.shop import Shop

_FACT = "fruitless"


class Download(msgspec.Struct, frozen=True):
    """What has come of a revision that is still wanted, and what is to come."""

    key: Key
    here_bytes: int
    lacking_bytes: int | None
    """None: nobody knows, since its manifest has not come."""
    fruitless: int = 0
    """Tries in a row that ended without a byte of it."""


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


def line(model: str, others: Iterable[Download], room_bytes: int, fruitless: int = 0) -> Line:
    """How `others` stand to the download of `model`; `room_bytes`: what there would be if nothing had come. Pure.

    `fruitless`: its own. One that is whole is on its way into the store: it wants no more, and is not taken.
    """
    ahead, behind = [], []
    for each in sorted(others, key=lambda each: _place(each.key[0], each.fruitless)):
        lacks = each.lacking_bytes
        if (
            _place(each.key[0], each.fruitless) < _place(model, fruitless)
            and lacks is not None
            and each.here_bytes + lacks <= room_bytes
        ):
            ahead.append(each)
            room_bytes -= each.here_bytes + lacks
        elif lacks != 0:
            behind.append(each)
    return Line(tuple(ahead), tuple(behind))


def _place(model: str, fruitless: int) -> tuple[int, str]:
    return fruitless.bit_length(), model


class Fruitless(msgspec.Struct, frozen=True):
    """How often in a row the download of a revision ended without a byte of it."""

    revision: int
    tries: int


async def take_try(shop: Shop, model: str, revision: int, *, came: bool) -> None:
    """Counts a try that has ended; `came`: something of it did. Where that cannot be kept it stands where it stood."""
    with contextlib.suppress(EdgedError):
        states, found = await shop.ledger.do(shop.ledger.journal.states), await _recall(shop)
        wanted = set(map(download, states.values()))
        counted = {name: each for name, each in found.items() if (name, each.revision) in wanted and name != model}
        if not came:
            before = found.get(model)
            tries = before.tries if before is not None and before.revision == revision else 0
            counted[model] = Fruitless(revision, tries + 1)
        if counted != found:
            await shop.ledger.do(shop.ledger.journal.keep_fact, _FACT, msgspec.json.encode(counted))


async def _recall(shop: Shop) -> dict[str, Fruitless]:
    return await shop.ledger.recall(_FACT, dict[str, Fruitless]) or {}


async def stand_in_line(shop: Shop, model: str) -> Line:
    """How the downloads of other models stand to that of `model`. Raises EdgedError, or OSError."""
    states = await shop.ledger.do(shop.ledger.journal.states)
    counted = {(name, each.revision): each.tries for name, each in (await _recall(shop)).items()}
    return await asyncio.to_thread(_look, shop, model, states.values(), counted)


def _look(shop: Shop, model: str, states: Iterable[State], counted: Mapping[Key, int]) -> Line:
    store, found, fruitless = shop.library.store, [], 0
    for key in map(download, states):
        if key is not None:
            tries = counted.get(key, 0)
            fruitless = tries if key[0] == model else fruitless
            with contextlib.suppress(EdgedError):  # a name under which nothing was fetched
                found.append(Download(key, store.staged_bytes(*key), store.lacking_bytes(*key), tries))
    room_bytes = store.room_bytes() + sum(each.here_bytes for each in found)
    return line(model, [each for each in found if each.key[0] != model], room_bytes, fruitless)
