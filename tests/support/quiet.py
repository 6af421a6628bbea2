"""What is to hold of a device in whose way nothing stands, and to which nothing has happened for a while."""

from __future__ import annotations

from typing import Any

from edged.update.machine import Phase
from edged.update.machine import State as Machine
from edged.update.reasons import Reason
from support.published import NATURES
from support.whole_device import Life


class WalkError(AssertionError):
    """Something does not hold."""


def check_quiet(life: Life, *, blameless: bool) -> None:
    """Raises WalkError. `blameless`: nothing has happened for which a good revision may be blamed."""
    states = life.journal.states()
    if life.shop.trying._value != 1 or life.shop.fetching._value != 1:
        raise WalkError("a semaphore is still held")
    if life.agent._collecting is not None:
        raise WalkError("a collection does not come to an end")
    for each in life.journal.quarantined().values():
        nature = NATURES[each.model, each.revision]
        sound = nature.loads and nature.golden and nature.agrees and nature.answers
        if blameless and sound and each.reason not in (Reason.OPERATOR, Reason.INCOMPATIBLE_SIGNATURE):
            raise WalkError(f"a good revision is blamed: {each}")
    for model, course_ in life.agent.courses.items():
        state = course_.state
        if model in states and states[model] != state:
            raise WalkError(f"{model}: the journal says {states[model]}, the course {state}")
        if course_._ending:
            raise WalkError(f"{model}: the end of a trial does not come to an end")
        _check_wish(life, model, state)
        if model not in life.ordered:
            _check_loaded(life, model, state)
        elif model in life.loaded and not _serving(life, model).ready:
            raise WalkError(f"{model}: somebody had {life.loaded[model]} loaded, and {_serving(life, model).state}")


def _check_wish(life: Life, model: str, state: Machine) -> None:
    pin = life.agent.pins.get(model)
    wanted = pin.revision if pin else life.outside.plan.get(model)
    nature = NATURES.get((model, wanted or 0))
    if wanted is not None and nature is None:
        return  # it waits for what nobody publishes
    decision = life.agent.decisions.get(model)
    if wanted is not None and nature and not nature.compatible:
        return  # it is tried anew wherever it is quarantined for other circumstances
    if _soaks_unloaded(life, model, state):
        return
    if state.phase is not Phase.IDLE or state.deferred:
        raise WalkError(f"{model} does not come to an end: {state}; {decision}")
    if wanted is None or (state.serving and state.serving.revision == wanted):
        return
    if wanted < life.agent.floor(model):
        return
    held = [
        each
        for each in life.journal.quarantined().values()
        if (each.model, each.revision) == (model, wanted) and life.shop.environment.holds(each)
    ]
    if not held:
        raise WalkError(f"{model}: {wanted} is wanted, and it is {state}; {decision}")


def _soaks_unloaded(life: Life, model: str, state: Machine) -> bool:
    """Whether it waits to be loaded by whoever unloaded it: what does not answer is not committed."""
    if state.phase is not Phase.SOAKING or state.serving is None or model not in life.ordered:
        return False
    return life.residency.get(model, state.serving.revision).leaving


def _check_loaded(life: Life, model: str, state: Machine) -> None:
    loaded = [each.revision for each in life.residency.all() if each.name == model and each.loaded]
    serving = [state.serving.revision] if state.serving else []
    if loaded != serving:
        raise WalkError(f"{model}: {loaded} are loaded, and {serving} serves")
    if not serving:
        return
    route = life.residency.routes[model]
    found = life.residency.get(model, route.serving)
    if route.serving != serving[0] or route.fallback or route.loaded != tuple(serving):
        raise WalkError(f"{model}: the route is {route}, and {serving} serves")
    if state.serving and found.digest != state.serving.digest:
        raise WalkError(f"{model}: another {found.revision} serves than {state.serving}")
    if not found.ready and NATURES[model, found.revision].loads:
        raise WalkError(f"{model}: {found.revision} is {found.state}: {found.reason}")
    if [each.key for each in life.hands if each.key[0] == model] != [(model, serving[0])] * found.ready:
        raise WalkError(f"{model}: workers {[each.key for each in life.hands]}")
    if state.previous and life.shop.library.find(model, state.previous.revision, state.previous.digest) is None:
        raise WalkError(f"{model}: {state.previous} has been collected")


def _serving(life: Life, model: str) -> Any:
    return life.residency.get(model, life.residency.routes[model].serving)
