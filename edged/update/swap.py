"""Swap mode: where only one of two revisions can be loaded, they change places while requests wait.

Memory holds just one of them, or both need a device that one process at a time can have.

What has come waits in the bounded queue of the one that goes, each request within its deadline, and is handed on once
the other one has passed its trial; where that fails, the one that went is loaded again and answers. Nothing is warm
while the new one soaks: going back loads the one before.
"""

from __future__ import annotations

import asyncio
import contextlib

from edged.bundle.exclusion import excludes
from edged.errors import Code, EdgedError
from edged.models.loading import need
from edged.models.memory import Fit
from edged.models.resident import Resident
from edged.update.machine import Ref
from edged.update.shop import Shop

# What a worker may take to go beyond the answering of what it has.
_GRACE_S = 10.0

_SHORT_HINT = "it is tried again; make room on the device, or see pressure.memory_limit_mib"


async def reason(new: Resident, serving: Resident | None) -> str:
    """Why `new` can be tried only once `serving` has no worker; empty where both can be loaded.

    Raises EdgedError (memory_short) where it would not do then either.
    """
    if new.ready or not new.choice.runnable:
        return ""
    terms, revision = new.terms, serving.revision if serving else 0
    fits: list[Fit] = [
        await terms.memory.judge(need(new.manifest, variant, terms), revision) for variant in new.choice.runnable
    ]
    if never := next((each for each in fits if not each.instead), None):
        raise EdgedError(Code.MEMORY_SHORT, f"revision {new.revision} cannot be tried: {never.text}", _SHORT_HINT)
    short = next((each for each in fits if not each.beside), None)
    if serving is None or serving.leaving:  # what somebody unloads is in nobody's way for long
        return ""
    wait = "so requests wait while they change places"
    if short is not None:
        return f"memory holds one of the revisions {serving.revision} and {new.revision}, {wait}: {short.text}"
    # One that runs a lighter variant for now wants its device back.
    pairs = ((mine, theirs) for mine in new.choice.runnable for theirs in serving.choice.runnable)
    rivals = next((pair for pair in pairs if excludes(*pair)), None)
    if rivals is None:
        return ""
    both = f"variant {rivals[0].name} of revision {new.revision} and {rivals[1].name} of revision {serving.revision}"
    return f"one process at a time can have the device of {both}, {wait}"


async def step_aside(old: Resident, new: Ref, shop: Shop) -> None:
    """Ends the worker that serves once it has answered what it has; what comes then waits. Raises EdgedError.

    One that has no worker, and may never get one, stops trying.
    """
    worker, why = old.worker, f"revision {new.revision} takes its place"
    if not old.rest(why, stands_by=True):
        if await old.stand_by(why):
            return
        raise EdgedError(Code.MODEL_UNAVAILABLE, f"revision {old.revision} is {old.state}", "it is tried again")
    limit_s = shop.drain_s() + _GRACE_S
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while old.variant is not None:  # until its worker has gone, which may be about to rest already
                await old.changes.after(old.changes.count)
    if old.variant is not None or (worker is not None and not worker.gone.done()):
        text = f"the worker of revision {old.revision} did not go within {limit_s:g} s"
        raise EdgedError(Code.MODEL_UNAVAILABLE, text, "it is tried again")


def change_over(model: str, new: Ref, old: Ref | None, shop: Shop) -> None:
    """Routes to the revision that has passed; what waits for the one before, which stands by, is its own now."""
    shop.residency.flip(model, new.revision)
    before = shop.residency.withdraw(model, old.revision) if old else None
    if before is not None:
        shop.traffic.hand_on(before)


def change_back(model: str, old: Resident, new: Ref, shop: Shop) -> None:
    """Routes to the revision before, which loads once the other has gone; what waits for that waits for this one."""
    found = shop.residency.find(model, old.revision)
    if found is None or not found.loaded:
        shop.residency.add_on_trial(old, stands_by=f"it loads once revision {new.revision} has gone")
    shop.residency.flip(model, old.revision)
    failed = shop.residency.find(model, new.revision)
    if failed is not None:
        shop.traffic.hand_on(failed)
