"""Waiting for what tells nobody of itself: it is looked at again and again, until it is so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from edged.changes import Changes

# A bound for what takes well under a second, on a machine that does ten things at once.
PATIENCE_S = 60.0

_Found = TypeVar("_Found")


def until(
    look: Callable[[], _Found],
    what: str,
    *,
    holds: Callable[[_Found], object] = bool,
    log: Callable[[], str] = str,
    limit_s: float = PATIENCE_S,
    again_s: float = 0.01,
) -> _Found:
    """Looks until `holds` says of what is found that it is so, and gives that.

    A failure says `what` was waited for, what was found last and what `log` gives, such as that of a daemon.
    """
    end_s = time.monotonic() + limit_s
    while not holds(found := look()):
        assert time.monotonic() < end_s, _in_vain(what, limit_s, found, log)
        time.sleep(again_s)
    return found


async def until_async(
    look: Callable[[], _Found | Awaitable[_Found]],
    what: str,
    *,
    holds: Callable[[_Found], object] = bool,
    log: Callable[[], str] = str,
    limit_s: float = PATIENCE_S,
    again_s: float = 0.005,
) -> _Found:
    """As `until`, with the loop turning meanwhile; no clock that a test moves forward shortens it."""
    end_s = time.monotonic() + limit_s
    while not holds(found := await _seen(look())):
        assert time.monotonic() < end_s, _in_vain(what, limit_s, found, log)
        await asyncio.sleep(again_s)
    return found


async def until_changed(changes: Changes, holds: Callable[[], object]) -> None:
    """Waits, from change to change, until it holds: it is looked at after each of them, so nothing is missed."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await changes.after(changes.count)


async def _seen(found: _Found | Awaitable[_Found]) -> _Found:
    return await found if isinstance(found, Awaitable) else found


def _in_vain(what: str, limit_s: float, found: object, log: Callable[[], str]) -> str:
    return f"waited {limit_s:g} s in vain until {what}; seen last: {found!r}\n{log()}"
