"""What this device has, and why it serves what it serves, for whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import msgspec

from edged.bundle.manifest import digest
from edged.errors import EdgedError
from edged.models.store import Damage, Store
from edged.update.administration import Administration
from edged.update.agent import Agent
from edged.update.course import Course
from edged.update.machine import State as Machine
from edged.update.start import Chosen


class HeldRevision(msgspec.Struct, frozen=True):
    """An installed revision."""

    model: str
    revision: int
    digest: str
    bytes: int
    use: str


class FoundDamage(msgspec.Struct, frozen=True):
    """What is not as it was stored."""

    digest: str
    what: str
    revisions: tuple[str, ...]
    discarded: bool


class Held(msgspec.Struct, frozen=True):
    """The store."""

    revisions: list[HeldRevision]
    used_bytes: int
    room_bytes: int
    damages: list[FoundDamage]
    verified: bool


async def store(agent: Agent, *, verify: bool, repair: bool) -> Held:
    """What the store holds; with `verify` after a look at every byte, with `repair` what is damaged is fetched again.

    What serves comes first, and one that cannot be fetched keeps no other from it. Raises EdgedError, or OSError, with
    the first that cannot now: what was damaged is out of the store all the same; or before anything is taken out while
    the disk is full.
    """
    if repair:
        agent.obstacles.check_room()
    uses = {
        (model, ref.revision): use
        for model, course in agent.courses.items()
        for use, ref in (
            ("under way", course.state.target),
            ("previous", course.state.previous),
            ("serving", course.state.serving),
        )
        if ref is not None
    }
    held = await asyncio.to_thread(_look, agent.shop.library.store, uses, verify=verify, repair=repair)
    damaged = {key for each in held.damages for key in each.revisions} if repair else set()
    await _mend(agent, sorted(damaged, key=lambda key: (uses.get(_parted(key)) != "serving", key)))
    return held


async def _mend(agent: Agent, damaged: list[str]) -> None:
    """Raises EdgedError, or OSError, when all have had their turn."""
    failures: list[EdgedError | OSError] = []
    for key in damaged:
        try:
            await Administration(agent).mend(*_parted(key))
        except (EdgedError, OSError) as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _parted(key: str) -> tuple[str, int]:
    model, _, revision = key.rpartition(" ")
    return model, int(revision)


def _look(store: Store, uses: dict[tuple[str, int], str], *, verify: bool, repair: bool) -> Held:
    damages: list[Damage] = store.verify() if verify else []
    if repair:
        for damage in damages:
            store.discard(damage)
    revisions = []
    for model in store.models():
        for revision in reversed(store.revisions(model)):
            with contextlib.suppress(EdgedError):
                manifest = store.manifest(model, revision)
                size, use = sum(file.size for file in manifest.files), uses.get((model, revision), "")
                revisions.append(HeldRevision(model, revision, digest(manifest), size, use))
    found = [
        FoundDamage(each.digest, each.what, tuple(f"{model} {revision}" for model, revision in each.revisions), repair)
        for each in damages
    ]
    return Held(revisions, store.used_bytes(), store.room_bytes(), found, verify)


def explain(agent: Agent, model: str) -> list[str]:
    """Why this revision and variant of a model serve, and what was passed over. Raises EdgedError."""
    course = agent.course(model)
    return [
        *_serving(course),
        *_chosen(agent.chosen.get(model)),
        *_under_way(course.state),
        *_soak(course),
        *_wishes(agent, model),
        *_quarantines(agent, model),
    ]


def _serving(course: Course) -> Iterator[str]:
    serving = course.state.serving
    if serving is None:
        yield "no revision serves"
        return
    yield f"revision {serving.revision} serves (digest {serving.digest[:16]})"
    resident = course.stages.resident(course.state.model, serving)
    if resident is None:
        return
    if resident.ready and resident.variant is not None:
        variant = resident.variant
        yield f"it runs as variant {variant.name} on {variant.runtime}, and came from the {resident.source.origin}"
    else:
        yield f"its worker is {resident.state}: {resident.reason}"
    for passed in (*resident.choice.passed_over, *resident.choice.waiting):
        yield f"variant {passed.variant} was passed over: {passed.reason} ({passed.code})"


def _chosen(chosen: Chosen | None) -> Iterator[str]:
    if chosen is not None and chosen.ref is not None:
        yield f"at the start revision {chosen.ref.revision} was chosen: {chosen.why}"
        for revision, why in chosen.passed_over:
            yield f"at the start revision {revision} was passed over: {why}"


def _under_way(state: Machine) -> Iterator[str]:
    if state.target is not None:
        waits = f"; it waits: {state.deferred}" if state.deferred else ""
        yield f"revision {state.target.revision} is {state.phase}, wanted by the {state.cause}{waits}"
    if state.previous is not None:
        yield f"revision {state.previous.revision} served before, and can be gone back to"


def _soak(course: Course) -> Iterator[str]:
    soaked, resident = course.stages.soaked, course.stages.resident(course.state.model, course.state.serving)
    if soaked is None or resident is None:
        return
    least = resident.manifest.acceptance.soak.min_requests
    told = f"it has soaked for {soaked.lasted_s:.0f} s and has seen {soaked.requests} of {least} requests"
    wish = course.stages.wish or course.state
    yield told if wish.allow_unproven else f"{told}, before which the plan does not let it be committed"
    if not (resident.ready or resident.resting):
        yield "it is not committed before it answers again, and goes back where no worker can be started for it in time"


def _wishes(agent: Agent, model: str) -> Iterator[str]:
    pin, decision = agent.pins.get(model), agent.decisions.get(model)
    if pin is not None:
        since = f"{pin.at:%Y-%m-%d %H:%M} UTC"
        yield f"it is held at revision {pin.revision} by a {pin.cause} of {since}, whatever the plan says"
    if decision is not None and decision.why:
        yield decision.why


def _quarantines(agent: Agent, model: str) -> Iterator[str]:
    for found in agent.quarantined.values():
        if found.model == model:
            gone = "" if agent.shop.environment.holds(found) else " (no longer: the device has changed)"
            which = f"revision {found.revision} variant {found.key.variant}"
            yield f"{which} is quarantined: {found.reason}: {found.text}{gone}"
