"""What serves when the daemon starts: chosen from what is recorded and what is there, and explained."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

import msgspec

from edged import clock
from edged.errors import Code, EdgedError
from edged.events import Severity
from edged.models.resident import Resident
from edged.models.states import Source, State
from edged.update import policy, swap
from edged.update.blame import of_the_device
from edged.update.environment import Environment
from edged.update.machine import Event, Happened, Phase, Ref
from edged.update.machine import State as Machine
from edged.update.reasons import Reason
from edged.update.records import Committed, Quarantined
from edged.update.shop import Shop

# How long the warm predecessor of a soaking revision is waited for, so that there is something to go back to.
_WARM_S = 30.0


class Candidate(msgspec.Struct, frozen=True):
    """A revision that may serve, and by what right."""

    ref: Ref
    right: str
    factory: bool = False


def candidates(state: Machine, committed: Committed | None, factory: Sequence[Ref]) -> list[Candidate]:
    """In order: what the pointer says, what was committed, what served before, what came with the image. Pure.

    What was committed is what the pointer says or what served before, unless a bit of the pointer has changed.
    What another start could not run comes before what served instead, but for a soak, which is to be judged: a bad
    operating system must not cost a model its revision.
    """
    intended = Candidate(state.intended, "it served until a start could not run it") if state.intended else None
    served = Candidate(state.serving, "it served last") if state.serving else None
    found = [
        *((served, intended) if state.phase is Phase.SOAKING else (intended, served)),
        Candidate(committed.serving, "it was committed") if committed else None,
        Candidate(state.previous, "it served before") if state.previous else None,
        Candidate(committed.previous, "it served before what was committed")
        if committed and committed.previous
        else None,
        *(Candidate(ref, "it came with the image", factory=True) for ref in factory),
    ]
    unique: dict[Ref, Candidate] = {}
    for each in found:
        if each is not None:
            unique.setdefault(each.ref, each)
    return list(unique.values())


def objection(
    state: Machine, candidate: Candidate, floor: int, quarantined: Iterable[Quarantined], environment: Environment
) -> str:
    """Why a candidate must not serve; nothing where it may. Pure.

    What a device does not survive is not loaded once more to find that out, where another revision is there.
    """
    judged = state.phase is Phase.SOAKING and candidate.ref == state.serving
    if judged and state.previous is not None and (why := policy.crash_loop(state)):
        return why
    if candidate.ref.revision < floor:
        return f"it lies below {floor}, the least that is signed as allowed"
    for found in quarantined:
        if found.key.digest == candidate.ref.digest and environment.holds(found):
            return f"it is quarantined: {found.reason}: {found.text}"
    return ""


def pointing(state: Machine, chosen: Ref | None, swaps: str = "") -> Machine:
    """The state with its pointer at what was chosen, and what was meant kept for a start that can run that. Pure.

    A revision that soaked and was passed over still has to be gone back on, to what was chosen. `swaps`: why nothing is
    warm beside one that soaks on.
    """
    if state.phase is Phase.SOAKING and chosen != state.serving:
        if chosen is None:
            return state
        meant = state.intended or state.previous
        older = state.previous if chosen == state.older else state.older
        return msgspec.structs.replace(state, previous=chosen, older=older, intended=_unless(chosen, meant))
    meant = state.intended or state.serving
    return msgspec.structs.replace(
        state,
        serving=chosen,
        intended=_unless(chosen, meant),
        previous=state.serving if chosen == state.previous else state.previous,
        swaps=state.swaps or swaps,
    )


def _unless(chosen: Ref | None, meant: Ref | None) -> Ref | None:
    return None if chosen == meant else meant


def serves_already(state: Machine) -> bool:
    """Whether what an update is to bring is what a start chose, which nobody tries against itself. Pure."""
    serving, target = state.serving, state.target
    soaks = state.phase is Phase.SOAKING
    return not soaks and serving is not None and target is not None and serving.revision == target.revision


class Chosen(msgspec.Struct):
    """What serves since the start, and what was passed over, each with its reason."""

    ref: Ref | None = None
    why: str = "there is nothing that could serve"
    passed_over: list[tuple[int, str]] = []
    degraded: str = ""
    excuse: Reason | None = None
    """What of this device is to blame that the revision of the pointer does not serve."""
    swaps: str = ""
    """Why nothing could be warm beside the revision that soaks; empty where it is, or nothing soaks."""


def happened(found: Machine, course: Machine, chosen: Chosen, *, counted: bool) -> Happened:
    """What a course is told: `found` was in the journal, `course` points at what was chosen. Pure.

    `counted`: the journal has been told of this start.
    """
    if found.phase is Phase.SOAKING and chosen.ref != found.serving:
        why = next((why for revision, why in chosen.passed_over), "it does not serve")
        reason = Reason.CRASH_LOOP if policy.crash_loop(found) else chosen.excuse or Reason.LOAD_FAILED
        return Happened(Event.FAILED, why, reason)
    if serves_already(course):
        return Happened(Event.SUPERSEDED, "what was tried serves since the start", target=course.target)
    return Happened(Event.RESUMED if counted else Event.STARTED, chosen.degraded or f"edged started; {chosen.why}")


async def choose(
    state: Machine, options: Sequence[tuple[Candidate, str]], sources: Sequence[Source | None], shop: Shop
) -> Chosen:
    """Starts the first candidate that may serve and whose model loads; the last one stays, whatever becomes of it.

    `options`: candidates with the objection to each; `sources`: their bundles, None where they are not here whole.
    """
    chosen = Chosen()
    before: Resident | None = None
    for (candidate, why_not), source in zip(options, sources, strict=True):
        reason = why_not or ("" if source else "it is not on this device as it was signed")
        if reason or source is None:
            chosen.passed_over.append((candidate.ref.revision, reason))
            if not why_not and candidate.ref == state.serving:
                chosen.excuse = Reason.DIGEST_MISMATCH
            continue
        resident = shop.residency.find(state.model, candidate.ref.revision) or shop.make_resident(source)
        warm = state.phase is Phase.SOAKING and not state.swaps
        if warm and candidate.ref == state.serving:
            chosen.swaps = await _warm(state, resident, shop)
        if shop.residency.find(state.model, candidate.ref.revision) is None:
            shop.residency.add_on_trial(resident)
        shop.residency.flip(state.model, candidate.ref.revision, keep=warm)
        if before is not None:
            await _drop(before, shop)
        chosen.ref, chosen.why = candidate.ref, candidate.right
        while not resident.settled:
            await resident.changes.after(resident.changes.count)
        if resident.state is not State.FAILED:
            break
        chosen.passed_over.append((candidate.ref.revision, resident.reason))
        if candidate.ref == state.serving and (found := of_the_device(resident, shop.residency.failed)):
            chosen.excuse = found[0]
        before = resident
    best = options[0][0].ref.revision if options else 0
    if chosen.ref is not None and chosen.passed_over:
        revision, reason = chosen.passed_over[0]
        if chosen.ref.revision != revision:
            chosen.degraded = (
                f"model {state.model} is served by revision {chosen.ref.revision} instead of {best}: {reason}"
            )
            shop.events.record(Severity.ERROR, Code.MODEL_UNAVAILABLE, state.model, chosen.degraded)
    return chosen


async def _warm(state: Machine, soaks: Resident, shop: Shop) -> str:
    """Starts what served before the revision that soaks, to be gone back to at once; else why that would shut it out.

    Both fitted when the route flipped, or one of them was not loaded then.
    """
    if state.previous is None:
        return ""
    source = await asyncio.to_thread(shop.library.find, state.model, state.previous.revision, state.previous.digest)
    if source is None:
        return ""
    resident = shop.make_resident(source)
    with contextlib.suppress(EdgedError):  # where there is no room for the one that soaks, what there is serves
        if why := await swap.reason(soaks, resident):
            return why
    shop.residency.add_on_trial(resident)
    shop.residency.flip(state.model, state.previous.revision, keep=False)
    ends_s = clock.monotonic() + _WARM_S
    while not resident.settled and clock.monotonic() < ends_s:
        await resident.changes.after(resident.changes.count)
    return ""


async def _drop(resident: Resident, shop: Shop) -> None:
    shop.residency.withdraw(resident.name, resident.revision)
    await shop.residency.end(resident)
