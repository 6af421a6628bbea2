"""Changes of the plan, each held against what is published. Pure but for the listing it asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edged import schema
from edged.errors import Code, EdgedError
from edged.fleet.listing import Listing, plan_path
from edged.fleet.signing import Signing, Waiting
from edged.update import plan as plans
from edged.update.plan import ClassPlan, Plan, Rollout, Wave


def put(signing: Signing, listing: Listing, plan: Plan) -> list[Waiting]:
    """Signs and publishes a plan that holds together. Raises EdgedError (plan_invalid)."""
    data = msgspec.to_builtins(plan)
    for misfit in [*schema.misfits(data, Plan), *plans.faults(plan)]:
        raise EdgedError(Code.PLAN_INVALID, f"{schema.dotted(misfit.key)} {misfit.found}", misfit.remedy)
    listing.put(plan_path(plan.fleet), plans.encode(plan))
    return signing.commit(listing.changed) if listing.changed else signing.install()


def check(listing: Listing, model: str, hardware_class: str, revision: int) -> None:
    """Raises EdgedError unless devices of the class may run that revision."""
    manifest = listing.manifest(model, revision)
    if manifest is None:
        found = f"{model} revision {revision} is not published"
        raise EdgedError(Code.REVISION_NOT_FOUND, found, "publish it first: `edgectl fleet publish DIR`")
    floor = listing.floor(model)
    if revision < floor:
        found = f"{model} revision {revision} lies below the floor, {floor}"
        raise EdgedError(Code.PLAN_INVALID, found, "choose a later one")
    classes = {each for variant in manifest.variants for each in variant.hardware_classes}
    if all(variant.hardware_classes for variant in manifest.variants) and hardware_class not in classes:
        found = f"{model} revision {revision} has no variant for {hardware_class}"
        raise EdgedError(Code.INCOMPATIBLE_HARDWARE, found, f"it is made for {', '.join(sorted(classes))}")


def terms_of(plan: Plan, model: str, hardware_class: str) -> ClassPlan:
    """What the plan says now. Raises EdgedError (plan_invalid) where it says nothing."""
    terms = plan.models.get(model, {}).get(hardware_class)
    if terms is None:
        found = f"the plan says nothing of {model} for {hardware_class}"
        raise EdgedError(Code.PLAN_INVALID, found, "give the class a revision with `edgectl fleet plan set`")
    return terms


def with_terms(plan: Plan, model: str, hardware_class: str, terms: ClassPlan) -> Plan:
    """The plan with other terms for one class."""
    classes = {**plan.models.get(model, {}), hardware_class: terms}
    return msgspec.structs.replace(plan, models={**plan.models, model: classes})


def settled(plan: Plan, model: str, hardware_class: str, revision: int) -> Plan:
    """The plan by which a whole class runs a revision; a rollout under way is over."""
    known = plan.models.get(model, {}).get(hardware_class)
    terms = ClassPlan(revision=revision)
    if known is not None:
        terms = msgspec.structs.replace(known, revision=revision, rollout=None)
    return with_terms(plan, model, hardware_class, terms)


def rolled(
    plan: Plan, model: str, hardware_class: str, revision: int, waves: Sequence[Wave], population: int, name: str
) -> Plan:
    """The plan by which a class goes to a revision in waves, the first of them open."""
    terms = terms_of(plan, model, hardware_class)
    rollout = Rollout(
        id=name or f"{model}-{terms.revision}-{revision}", revision=revision, waves=tuple(waves), population=population
    )
    return with_terms(plan, model, hardware_class, msgspec.structs.replace(terms, rollout=rollout))


def moved(plan: Plan, model: str, hardware_class: str, step: str) -> Plan:
    """The plan with its rollout a step on: `next`, `pause`, `resume`, `abort`, `finish`."""
    terms = terms_of(plan, model, hardware_class)
    rollout = terms.rollout
    if rollout is None:
        found = f"no rollout of {model} for {hardware_class} is under way"
        hint = f"begin one with `edgectl fleet plan set {model} --class {hardware_class} --revision N --wave 10%`"
        raise EdgedError(Code.PLAN_INVALID, found, hint)
    if rollout.status == "aborted" and step in ("next", "finish"):
        found = f"the rollout {rollout.id} was aborted: its devices go back to revision {terms.revision}"
        hint = f"resume it first: `edgectl fleet plan wave {model} --class {hardware_class} resume`"
        raise EdgedError(Code.PLAN_INVALID, found, hint)
    if step == "finish":
        return settled(plan, model, hardware_class, rollout.revision)
    if step == "next" and rollout.open_wave + 1 == len(rollout.waves):
        found = f"the last of the {len(rollout.waves)} waves is open"
        hint = f"end the rollout with `edgectl fleet plan wave {model} --class {hardware_class} finish`"
        raise EdgedError(Code.PLAN_INVALID, found, hint)
    steps: dict[str, dict[str, Any]] = {
        "next": {"open_wave": rollout.open_wave + 1, "status": "active"},
        "pause": {"status": "paused"},
        "resume": {"status": "active"},
        "abort": {"status": "aborted"},
    }
    rollout = msgspec.structs.replace(rollout, **steps[step])
    return with_terms(plan, model, hardware_class, msgspec.structs.replace(terms, rollout=rollout))
