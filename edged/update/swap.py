"""Swap mode: where only one of two revisions can be loaded, they change places while requests wait.

Memory holds just one of them, or both need a device that one process at a time can have.

What has come waits in the bounded queue of the one that goes, each request within its deadline, and is handed on once
the other one has passed its trial; where that fails, the one that went is loaded again and answers. Nothing is warm
while the new one soaks: going back loads the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import msgspec

from edged.bundle.exclusion import excludes
from edged.bundle.manifest import Variant
from edged.errors import Code, EdgedError
from edged.models.loading import need
from edged.models.memory import Need
from edged.models.resident import Resident
from edged.models.states import State
from edged.update.machine import Ref
from edged.update.shop import Shop

# What a worker may take to go beyond the answering of what it has.
_GRACE_S = 10.0

_SHORT_HINT = "it is tried again; make room on the device, or see pressure.memory_limit_mib"


async def reason(new: Resident, serving: Resident | None) -> str:
    """Why `new` can be tried only once `serving` has no worker; empty where both can be loaded.

    One that has none now, as it rests, has failed, or is unloaded, may be wanted back while `new` waits for its turn.
    Raises EdgedError (memory_short) where `new` has no room alone either.
    """
    if new.ready or not new.choice.runnable:
        return ""
    revision = serving.revision if serving else 0
    also_bytes = max((each.peak_bytes for each in _needs(serving)), default=0) if serving and _is_absent(serving) else 0
    short = ""
    for each in _needs(new):
        alone = await new.terms.memory.judge(each, revision)
        if not alone.instead:
            text = f"revision {new.revision} cannot be tried: {alone.text}"
            raise EdgedError(Code.MEMORY_SHORT, text, _SHORT_HINT)
        both = msgspec.structs.replace(each, peak_bytes=each.peak_bytes + also_bytes)
        fit = await new.terms.memory.judge(both, revision) if also_bytes else alone
        together = "together, " if also_bytes else ""
        short = short or ("" if fit.beside else f"{together}{fit.text}")
    if serving is None:
        return ""
    wait = "so requests wait while they change places"
    if short:
        return f"memory holds one of the revisions {serving.revision} and {new.revision}, {wait}: {short}"
    # One that runs a lighter variant for now wants its device back.
    pairs = ((mine, theirs) for mine in _variants(new) for theirs in _variants(serving))
    rivals = next((pair for pair in pairs if excludes(*pair)), None)
    if rivals is None:
        return ""
    pair = f"variant {rivals[0].name} of revision {new.revision} and {rivals[1].name} of revision {serving.revision}"
    return f"one process at a time can have the device of {pair}, {wait}"


def _is_absent(resident: Resident) -> bool:
    """Whether it has no memory now: neither a worker, nor one that comes up or still answers what it has."""
    goes = resident.variant is not None and (resident.resting or resident.leaving)
    return resident.worker is None and not goes and not resident.terms.memory.is_coming(resident.manifest)


def _variants(resident: Resident) -> Sequence[Variant]:
    """What may run of it; of one that has failed all that ever might, since a load gives each its chance anew."""
    return resident.choice.runnable or resident.choice.possible


def _needs(resident: Resident) -> Iterator[Need]:
    """What each of them takes, alone."""
    terms = resident.terms
    return (need(resident.manifest, variant, terms) for variant in _variants(resident))


async def step_aside(old: Resident, new: Ref, shop: Shop) -> None:
    """Ends the worker that serves once it has answered what it has; what comes then waits. Raises EdgedError.

    One that has no worker, and may never get one, stops trying; one that somebody has unloaded stays so.
    """
    worker, why = old.worker, f"revision {new.revision} takes its place"
    if old.leaving and old.state is State.UNAVAILABLE:
        return
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
