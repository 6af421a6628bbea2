"""Walks of a whole device: what may happen to it, in any order, and what is to hold whatever did."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edged import clock
from edged.models import renewing
from edged.models import resident as residents
from edged.models.states import State
from edged.types import Limits
from edged.update import course, journal, policy, swap
from edged.update.machine import Phase
from edged.update.machine import State as Machine
from support.hands import Outside
from support.published import MODELS, NATURES
from support.quiet import WalkError, check_quiet
from support.whole_device import Life, seed_chance

Step = tuple[str, tuple[Any, ...]]
"""What happens, and its particulars."""

_REVISIONS = sorted({revision for _, revision in NATURES})

# What is under way may be blamed for one more.
MOST_CUTS = min(policy.STARTS.values()) - 1

# So long nothing goes on by itself that has not come to an end: the longest pause is an hour.
_LONG_S = 150.0


class Walk:
    """One device, and everything that happens to it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.outside = Outside(folder)
        self.served: set[tuple[str, int]] = {key for key, nature in NATURES.items() if nature.factory}
        """What a start may choose: it came with the image, or has soaked."""
        self.trace: list[str] = []
        self.spoiled = False
        """Something did not load, which may load after the next start."""
        self.blameless = True
        """Nothing has happened for which a good revision may be blamed."""
        self.floors: dict[str, tuple[int, float]] = {}
        """How low a model may go, and since when that has been known."""
        self._patch = patch
        patch.setattr(clock, "monotonic", lambda: self.life.loop.now_s)
        patch.setattr("edged.worker.process.start", self._start_worker)
        for part in (swap, renewing):  # of one model, whose revisions alone they compare
            patch.setattr(part, "excludes", lambda *_: self.outside.exclusive)
        self.life = self._begin()

    async def _start_worker(self, *given: Any) -> Any:
        return await self.life.start_worker(*given)

    def _begin(self) -> Life:
        life = Life(self.outside)
        for part in (course, residents):
            self._patch.setattr(part, "_log", Defects(life.defects))
        record = life.journal.record

        def recorded(state: Machine, transition: Any, *rest: Any) -> None:
            record(state, transition, *rest)
            self.trace.append(
                f"  {life.loop.now_s:.3f} {transition.model} {transition.before}--{transition.event}-->"
                f"{transition.after} s={_r(state.serving)} p={_r(state.previous)} t={_r(state.target)} "
                f"i={_r(state.intended)} {transition.reason} {transition.text[:100]}"
            )
            if state.phase is Phase.SOAKING and transition.before != Phase.SOAKING:
                self._check_flip(life, state)
            if state.serving is not None and state.phase in (Phase.SOAKING, Phase.COMMITTED):
                self.served.add((state.model, state.serving.revision))

        life.journal.record = recorded  # type: ignore[method-assign]
        return life

    def _check_flip(self, life: Life, state: Machine) -> None:
        ref = state.serving
        assert ref is not None
        floor, since_s = self.floors.get(state.model, (1, 0.0))
        if ref.revision < floor and life.loop.now_s > since_s + 5:
            life.defects.append(f"{state} lies below the floor {floor}")
        for each in life.journal.quarantined().values():
            if (each.model, each.revision) == (state.model, ref.revision) and life.shop.environment.holds(each):
                life.defects.append(f"{state} is quarantined: {each}")

    def take(self, step: Step) -> None:
        """One step, and what is to hold after it."""
        name, given = step
        self.trace.append(f"{self.life.loop.now_s:.3f} {name}{given}")
        getattr(self, f"_{name}")(*given)
        self._check()

    # What may happen.

    def _turns(self, count: int) -> None:
        self.life.pass_turns(count)

    def _sleep(self, seconds: float) -> None:
        self.life.pass_time(seconds)

    def _until(self, model: str, phase: Phase) -> None:
        """A model's update has come so far, where it does so before long."""
        for _ in range(250):
            found = self.life.agent.courses.get(model)
            if found is not None and found.state.phase is phase:
                return
            self.life.pass_time(0.2)

    def _plan(self, model: str, revision: int, seen: bool = True) -> None:
        self.outside.plan[model] = revision
        if seen:
            self._look()

    def _unplan(self, model: str) -> None:
        self.outside.plan.pop(model, None)

    def _floor(self, model: str, revision: int) -> None:
        self.outside.floors[model] = revision

    def _look(self) -> None:
        self._order(lambda life: life.agent.look_at(None, begin=True))

    def _nudge(self) -> None:
        self.life.agent.looking.nudge()

    def _pin(self, model: str, revision: int) -> None:
        self._order(lambda life: life.administration.pin(model, revision, "pin"))

    def _unpin(self, model: str) -> None:
        self._order(lambda life: life.administration.unpin(model))

    def _back(self, model: str, revision: int) -> None:
        self._order(lambda life: life.administration.roll_back(model, revision))

    def _release(self, model: str) -> None:
        self._order(lambda life: life.administration.release(model))

    def _hold(self, model: str) -> None:
        self._order(lambda life: life.agent.holds.take("somebody", model, 60))

    def _let_go(self) -> None:
        self._order(_release_all)
        self._order(lambda life: life.agent.reconsider())

    def _load(self, model: str, revision: int) -> None:
        if model in self.life.residency.routes and self.life.ready:
            self.life.ordered.add(model)
            self._order(lambda life: self._loaded(life, model, revision))

    async def _loaded(self, life: Life, model: str, revision: int) -> None:
        life.loaded.pop(model, None)
        await life.orders.load(model, revision or None)
        life.loaded[model] = life.residency.routes[model].serving

    def _unload(self, model: str) -> None:
        if model in self.life.residency.routes and self.life.ready:
            self.life.ordered.add(model)
            self._order(lambda life: self._unloaded(life, model))

    async def _unloaded(self, life: Life, model: str) -> None:
        life.loaded.pop(model, None)
        await life.orders.unload(model)
        life.loaded.pop(model, None)

    def _renew(self, model: str) -> None:
        if found := self._serving(model):
            self._order(lambda life: self._renewed(life, found))

    async def _renewed(self, life: Life, found: Any) -> None:
        life.renewing[found] += 1
        try:
            await renewing.renew(found, "a test says so")
        finally:
            life.renewing[found] -= 1

    def _order(self, wanted: Callable[[Life], Any]) -> None:
        if self.life.ready:
            life = self.life
            life.order(lambda: wanted(life))

    def _ask(self, model: str, ok: bool) -> None:
        self.blameless &= ok
        if found := self._serving(model):
            self.life.traffic.ask(found, ok=ok)

    def _serving(self, model: str) -> Any:
        route = self.life.residency.routes.get(model)
        return self.life.residency.get(model, route.serving) if route else None

    def _crash(self, which: int) -> None:
        self.blameless = False
        if hands := self.life.hands:
            self.life.do(lambda: hands[which % len(hands)].end("killed by SIGKILL"))

    def _press(self, limits: Limits) -> None:
        if self.life.ready:
            self.life.do(lambda: self.life.agent.take(limits))

    def _fault(self, name: str, value: Any) -> None:
        setattr(self.outside, name, value)
        self.blameless &= name != "capacity"

    def _break(self, model: str, revision: int) -> None:
        self.outside.broken ^= {(model, revision)}
        self.spoiled, self.blameless = True, False

    def _damage(self, model: str, revision: int) -> None:
        """Its files are not what was signed any more, or are again: for that nobody is to be blamed."""
        self.outside.damaged ^= {(model, revision)}
        self.spoiled = True

    def _engine(self) -> None:
        """Another engine with the next start: quarantines are of the one before."""
        self.outside.runtime = "2.0" if self.outside.runtime == "1.0" else "1.0"

    def _cut(self) -> None:
        courses = self.life.agent.courses.values()
        self.blameless &= not any(each.state.attempts >= MOST_CUTS for each in courses)  # whatever cuts the power
        self.life.cut()
        self._raise_defects()
        self.life = self._begin()

    def _restart(self) -> None:
        left = self.life.end()
        self._raise_defects()
        if left:
            raise WalkError(f"the daemon ended and left {left}")
        self.life = self._begin()

    # What is to hold.

    def _raise_defects(self) -> None:
        if self.life.defects:
            raise WalkError("; ".join(self.life.defects))

    def _check(self) -> None:
        """After each step."""
        self._raise_defects()
        life = self.life
        for model, route in life.residency.routes.items():
            for revision in {route.serving, *route.loaded}:
                with _named(f"{model}: route {route} names a revision that is gone"):
                    life.residency.get(model, revision)
            if route.fallback == route.serving:
                raise WalkError(f"{model} falls back on itself: {route}")
            found = life.residency.get(model, route.serving)
            if model in life.ordered or life.renewing[found] or not found.begun:
                continue
            stopped = found.state in (State.UNLOADING, State.UNAVAILABLE) and not found.resting
            if found.leaving or stopped:
                raise WalkError(f"{model} revision {found.revision} serves, and is {found.state}: {found.reason}")
        for model, course_ in life.agent.courses.items():
            state = course_.state
            if state.serving and state.previous and state.serving.revision == state.previous.revision:
                raise WalkError(f"{model} names one revision twice: {state}")
            if state.phase is Phase.IDLE and (state.target or state.older or state.cause):
                raise WalkError(f"{model} remembers what is over: {state}")
        for model in MODELS:
            if (floor := life.agent.floor(model)) != self.floors.get(model, (1, 0.0))[0]:
                self.floors[model] = (floor, life.loop.now_s)
        for model, chosen in life.agent.chosen.items():
            if chosen.ref and (model, chosen.ref.revision) not in self.served:
                raise WalkError(f"{model}: the start chose {chosen}, which was only on trial")

    def finish(self) -> None:
        """Nothing stands in the way any more: everything comes to an end, and that is as it should be."""
        if self.spoiled:  # what did not load is not tried again before the next start
            self.outside.calm()
            self._restart()
        self._calm()
        check_quiet(self.life, blameless=self.blameless)
        if self.life.ordered:
            self._restart()
            self._calm()
            check_quiet(self.life, blameless=self.blameless)
        left = self.life.end()
        self._raise_defects()
        if left:
            raise WalkError(f"the daemon ended and left {left}")

    def _calm(self) -> None:
        self.outside.calm()
        for model in self.outside.plan:
            if (model, self.outside.plan[model]) not in NATURES:
                self.outside.plan[model] = 1
        for _ in range(100):
            if self.life.ready:
                break
            self.life.pass_time(60.0)
        else:
            raise WalkError("the start does not come to an end")
        self._order(_release_all)
        self.life.do(lambda: self.life.agent.take(Limits()))
        for _ in range(3):
            self._look()
            self._serve_for(_LONG_S)
        self.trace.append(f"{self.life.loop.now_s:.3f} calm")

    def _serve_for(self, seconds: float) -> None:
        for _ in range(int(seconds / 5)):
            for model in MODELS:
                self._ask(model, ok=True)
            self.life.pass_time(5.0)
        self._check()


async def _release_all(life: Life) -> None:
    for lease in life.agent.holds._holds.left(life.loop.now_s):
        await life.agent.holds.release(lease.id)


class Defects:
    """A log that keeps what it is told."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def exception(self, text: str, **details: Any) -> None:
        """A defect of edged."""
        self._told.append(f"{text}: {details} {traceback.format_exc()}")

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise WalkError(what) from None


def _r(ref: Any) -> int:
    return ref.revision if ref else 0


def walk(folder: Path, steps: Sequence[Step], seed: int = 0) -> list[str]:
    """Takes all steps, then brings everything to an end; gives what happened. Raises WalkError."""
    with walked(folder, steps, seed) as walking:
        walking.finish()
    return walking.trace


@contextlib.contextmanager
def walked(folder: Path, steps: Sequence[Step], seed: int = 0) -> Iterator[Walk]:
    """A device to which all that has happened. Raises WalkError."""
    seed_chance(seed)
    with pytest.MonkeyPatch.context() as patch:
        connect = journal._connect

        def unsynced(path: Path) -> Any:
            database = connect(path)
            database.execute("PRAGMA synchronous = OFF")
            return database

        patch.setattr(journal, "_connect", unsynced)
        patch.setattr("os.fsync", lambda _: None)
        walking = Walk(folder, patch)
        try:
            for step in steps:
                walking.take(step)
            yield walking
        except Exception as error:
            error.add_note("\n".join(walking.trace))
            raise
        finally:
            if not walking.life.loop.is_closed():
                walking.life.cut()
