"""The agent: asks the repository, evaluates the plan for this device, and sets each model's course."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from edged import clock, log
from edged.bundle.manifest import digest
from edged.errors import Code, EdgedError
from edged.events import Severity
from edged.types import Limits
from edged.update import pauses, peaks, plan, policy, start
from edged.update.collecting import make_room
from edged.update.course import Course
from edged.update.fetcher import NOWHERE, Origin
from edged.update.leases import Leases
from edged.update.looking import Looking
from edged.update.machine import WORK, Event, Happened, Phase, Ref, State
from edged.update.obstacles import Obstacles
from edged.update.pauses import SCARCE
from edged.update.policy import Decision, Wish
from edged.update.records import Committed, Pin, Quarantined
from edged.update.share import Device, Share
from edged.update.shop import Shop
from edged.update.start import Chosen

_log = log.get("update")

# What is deferred is looked at again so often: a window opens, a lease ends.
_LOOK_S = 15.0
# What somebody waits for is kept so often, where it has become another: that much of it a power cut takes back.
_KEEP_S = 300.0


class Agent:
    """All courses of this device, and what is wanted of them."""

    def __init__(
        self, shop: Shop, device: Device, degrade: Callable[[str], None], recover: Callable[[str], None]
    ) -> None:
        """`degrade` and `recover` tell what is not as it should be, and no longer."""
        self.courses: dict[str, Course] = {}
        self.chosen: dict[str, Chosen] = {}
        self.pins: dict[str, Pin] = {}
        self.quarantined: dict[str, Quarantined] = {}
        self.decisions: dict[str, Decision] = {}
        self.holds = Leases(shop.ledger)
        self._shop = shop
        self._share = Share(device, shop.ledger)
        self.obstacles = Obstacles(shop, self._share, self.holds)
        self.looking = Looking(shop, device.fleet, self.obstacles.check_room)
        self._collecting: asyncio.Task[None] | None = None
        self._degrade = degrade
        self._recover = recover
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._starts: dict[str, asyncio.Task[None]] = {}

    async def begin(self) -> None:
        """Begins the choice of the start for every model; returns when each has a route, ready or not."""
        shop, ledger = self._shop, self._shop.ledger
        with contextlib.suppress(OSError):  # what a power cut left on its way
            await asyncio.to_thread(shop.library.store.tidy)
        states = await ledger.do(ledger.journal.states)
        committed = await ledger.do(ledger.journal.committed)
        self.pins = await ledger.do(ledger.journal.pins)
        self.quarantined = await ledger.do(ledger.journal.quarantined)
        await peaks.recall(shop.memory, ledger)
        await self.looking.heard.recall(ledger)
        await self._share.recall()
        await self.holds.recall()
        names = sorted({*states, *shop.library.models()})
        for name in names:
            begun = self._begin(states.get(name) or State(model=name), committed.get(name))
            self._starts[name] = self._told_of(asyncio.create_task(begun, name=f"start of {name}"))
        while any(not task.done() and name not in shop.residency.routes for name, task in self._starts.items()):
            count, under_way = shop.changes.count, [task for task in self._starts.values() if not task.done()]
            waits = [asyncio.ensure_future(shop.changes.after(count)), *under_way]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            waits[0].cancel()
            await asyncio.gather(waits[0], return_exceptions=True)

    async def begun(self) -> None:
        """Waits until every model's first load has come to an end, good or bad."""
        if self._starts:
            await asyncio.wait(self._starts.values())

    async def _begin(self, state: State, committed: Committed | None) -> None:
        library, environment = self._shop.library, self._shop.environment
        factory = [Ref(each.manifest.revision, digest(each.manifest)) for each in library.factory(state.model)]
        floor = committed.floor if committed else 1
        # A floor that was raised since takes nothing out of service that serves already; nobody goes below it any more.
        signed, condemned = max(floor, self.floor(state.model)), self.quarantined.values()
        serves = (state.serving, state.intended)
        options = [
            (each, start.objection(state, each, floor if each.ref in serves else signed, condemned, environment))
            for each in start.candidates(state, committed, factory)
        ]
        refs = [each.ref for each, _ in options]
        sources = [await asyncio.to_thread(library.find, state.model, ref.revision, ref.digest) for ref in refs]
        course = Course(state, self._shop, self)
        await course.count_start()
        counted = course.state != state
        try:
            chosen = self.chosen[state.model] = await start.choose(state, options, sources, self._shop)
        except asyncio.CancelledError:
            if counted:  # what has not been counted yet is, at the next start
                await course.leave()
            raise
        if chosen.degraded:
            self._degrade(chosen.degraded)
        course.state = start.pointing(course.state, chosen.ref, chosen.swaps)
        course.floor = floor
        self._add(course)
        for (_, why_not), source in zip(options, sources, strict=True):
            if source is not None and not why_not and state.model in self._shop.residency.routes:
                course.stages.know(source)
        course.post(start.happened(state, course.state, chosen, counted=counted))

    def _course(self, state: State) -> Course:
        return self.courses.get(state.model) or self._add(Course(state, self._shop, self))

    def _add(self, course: Course) -> Course:
        model = course.state.model
        self.courses[model] = course
        self._tasks[model] = self._told_of(asyncio.create_task(course.run(), name=f"course of {model}"))
        return course

    def _told_of(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """The same, whose end by a defect is told, since nobody else would notice."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("a part of the update agent has ended by a defect", what=task.get_name(), exc_info=error)
                self._degrade(f"the {task.get_name()} has ended, and is not updated until edged restarts: {error}")

        task.add_done_callback(ended)
        return task

    async def run(self) -> None:
        """Polls until it is cancelled; `begin` comes first."""
        await self.begun()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll())
            group.create_task(self._look_again())
            group.create_task(self.looking.heard.keep_spending(self._shop.ledger))
            group.create_task(peaks.keep(self._shop.memory, self._shop.ledger))

    async def close(self) -> None:
        """Ends all courses where they are, and closes the journal."""
        tasks = [*self._starts.values(), *self._tasks.values()]
        if self._collecting is not None:
            tasks.append(self._collecting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.looking.heard.keep(self._shop.ledger)
        await self._keep_waits()
        await self._shop.ledger.close()

    async def _poll(self) -> None:
        while True:
            if not self._fetches:
                await self.looking.forget_stick()
            # A repository's is told in `last_look` and in the events, the journal's by `_look_again`.
            with contextlib.suppress(EdgedError):
                if self.looking.anywhere:
                    await self.looking.again()
                    for course in self.courses.values():
                        course.put_off.looked()
                    await self.reconsider()
                    await self._taken_in()
            for model, course in list(self.courses.items()):
                if not await self._is_to_come(model, course.put_off.until_looked):
                    course.put_off.looked()  # what is here waits for no repository that answers, or that there is
            await self.looking.due()

    async def _keep_waits(self) -> None:
        await self._share.keep()
        await self.holds.keep()

    async def _look_again(self) -> None:
        told, kept_s = "", clock.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            if clock.monotonic() - kept_s >= _KEEP_S:
                await self._keep_waits()
                kept_s = clock.monotonic()
            try:
                await self.reconsider()
                told = ""
            except EdgedError as error:
                if str(error) != told:
                    told = str(error)
                    self._shop.events.record(Severity.ERROR, error.code, "journal", told)

    async def look_at(self, stick: Path | None, *, begin: bool) -> None:
        """Looks at the repository, or at the one on a stick, for somebody who waits. Raises EdgedError.

        To `begin`, its plan is followed from now on and passes over jitter; else it is only told of. What is being
        fetched comes from the stick then, where its plan still wants that: no other repository has anybody wait for it.
        """
        if stick is None and not self._shop.settings.repository:
            raise EdgedError(Code.INVALID_ARGUMENT, NOWHERE, "set update.repository, or name a folder with --from")
        other = stick != self.looking.stick
        if self._fetches and other and not (stick and begin):
            text = "an update from another repository is under way"
            raise EdgedError(Code.OVERLOADED, text, "wait until it is done; `edgectl update --watch` shows it")
        found = await self.looking.at(stick, follow=begin)
        if begin:
            if other:
                for course in self.courses.values():
                    course.fetch_anew()
                await self._taken_in()
            await self.reconsider(now=True)
            await self._taken_in()
        else:
            await self._decide(found, now=True, begin=False)
            await self._foresee(stick)

    async def _taken_in(self) -> None:
        """Waits until each course has heard what was decided."""
        await asyncio.gather(*(course.heard() for course in self.courses.values()))

    async def _foresee(self, stick: Path | None) -> None:
        """Says of what would be gone for what its manifest tells. Raises EdgedError."""
        for model, decision in list(self.decisions.items()):
            if decision.go_for and model in self.courses:
                course = self.courses[model]
                async with self._shop.fetching:
                    found = await course.stages.foresee(course.state, decision.go_for, self.looking.origin(stick))
                if found:
                    self.decisions[model] = msgspec.structs.replace(decision, why=f"{decision.why}; {found}")

    def told(self, facts: Mapping[str, Any]) -> None:
        """Takes what the fetcher tells."""
        self.looking.heard.take(facts)

    def origin(self) -> Origin:
        """The repository that is to be asked now."""
        return self.looking.origin(self.looking.stick)

    async def reconsider(self, *, now: bool = False) -> None:
        """Decides what is wanted and allowed of each model now, and sets its course by that. Raises EdgedError.

        `now`: somebody asked, who does not wait for jitter or for what is to be tried again later.
        """
        await self._decide(self.looking.plan, now=now, begin=True)

    async def _decide(self, followed: plan.Plan | None, *, now: bool, begin: bool) -> None:
        ledger = self._shop.ledger
        self.quarantined = await ledger.do(ledger.journal.quarantined)
        self._forget_troubles()
        if begin:
            await self._share.follow(followed, self._now())
        wanted = self._wanted(followed)
        choosing = {model for model, task in self._starts.items() if not task.done()}  # what it is told comes first
        for model in sorted({*wanted, *self.pins, *self.courses} - choosing):
            course = self._course(State(model=model))
            found = wanted.get(model)
            hope = policy.wish(
                Wish(found.revision, "plan", found.allow_unproven, found.min_soak_s) if found else None,
                self.pins.get(model),
            )
            decision = policy.decide(
                course.state,
                hope,
                self.floor(model),
                self.quarantined.values(),
                self._shop.environment,
                planned=followed is not None,
            )
            kept = course.state.kept
            unwanted = followed is not None and kept is not None and kept.revision != decision.go_for
            if not now and (why := course.put_off.why(decision.go_for)):
                decision = msgspec.structs.replace(decision, go_for=0, why=f"{decision.why}; {why}")
            spread = found and found.jitter_s and not now and hope and hope.cause == "plan"
            if found and spread and await self._is_to_come(model, decision.go_for):
                decision = self._share.after_jitter(decision, found)
            self.decisions[model] = decision
            if not begin:
                continue
            if hope is not None:
                course.stages.wish = hope
            if decision.give_up or unwanted:
                course.post(Happened(Event.SUPERSEDED, decision.why, target=course.state.target or kept))
            if decision.go_for:
                course.post(_wanted(decision, hope or Wish(0, "")))
            if now:
                course.hurry()
            course.look_again()

    async def _is_to_come(self, model: str, revision: int) -> bool:
        """Whether a revision (0: none) is to be fetched first; what one goes back to is here already."""
        return bool(revision) and await asyncio.to_thread(self._shop.library.find, model, revision) is None

    def _forget_troubles(self) -> None:
        """What the start had to make do with is over once something else has been committed."""
        for model, chosen in self.chosen.items():
            course = self.courses.get(model)
            if chosen.degraded and course and course.state.phase is Phase.IDLE and course.state.serving != chosen.ref:
                self._recover(chosen.degraded)
                chosen.degraded = ""

    def _wanted(self, followed: plan.Plan | None) -> dict[str, plan.Wanted]:
        taken = {name: ref.revision for name, course in self.courses.items() if (ref := course.state.serving)}
        return self._share.wanted(followed, self._now(), taken)

    def _now(self) -> datetime:
        """The system's time, or what is known to be later: the image's build time, the newest signed issue time."""
        return clock.trusted(clock.wall(), self._shop.build_time, self.looking.heard.issued)

    def gate(self, model: str) -> str:
        """Why the route of `model` may not flip now; nothing when it may."""
        return self.obstacles.gate(model)

    def floor(self, model: str) -> int:
        """The lowest revision of a model that is signed as allowed."""
        signed = self.looking.heard.floors.get(model, 1)
        return max(signed, self.courses[model].floor if model in self.courses else 1)

    def take(self, limits: Limits) -> None:
        """Does no more in the background than these limits allow, and collects where they ask for space."""
        before, now = self.obstacles.pauses, pauses.read(limits)
        self.obstacles.pauses = now
        for course in self.courses.values():
            course.look_again()
        if now.filling and not before.filling and self._collecting is None:
            self._collecting = asyncio.create_task(make_room(self._shop, SCARCE), name="collection")
            self._collecting.add_done_callback(self._collected)
        if before.full and not now.full:
            self.looking.nudge()

    def _collected(self, _: asyncio.Task[None]) -> None:
        self._collecting = None

    def paused(self, phase: Phase) -> str:
        """Why nothing is done in a phase now; nothing when it is."""
        return self.obstacles.paused(phase)

    def course(self, model: str) -> Course:
        """The course of a model. Raises EdgedError (model_not_found)."""
        course = self.courses.get(model)
        if course is None:
            names = ", ".join(sorted(self.courses)[:10]) or "none"
            raise EdgedError(Code.MODEL_NOT_FOUND, f"there is no model {model[:64]!r}", f"models here: {names}")
        return course

    @property
    def shop(self) -> Shop:
        """What it works with."""
        return self._shop

    def check_model(self, model: str) -> None:
        """Raises EdgedError where there is no such model, whose hold would hold nothing."""
        if model not in self._shop.residency.routes:  # it has one while its start still loads
            self.course(model)

    @property
    def _fetches(self) -> bool:
        """Whether any update still needs the repository that it comes from."""
        return any(course.state.phase in (Phase.FETCHING, Phase.STAGED) for course in self.courses.values())

    @property
    def busy(self) -> bool:
        """Whether any update is under way."""
        return any(
            course.state.phase in WORK or course.state.phase is Phase.COMMITTED for course in self.courses.values()
        )


def _wanted(decision: Decision, wish: Wish) -> Happened:
    return Happened(
        Event.WANTED,
        decision.why,
        target=Ref(decision.go_for, ""),
        cause=wish.cause,
        allow_unproven=wish.allow_unproven,
        least_soak_s=wish.least_soak_s,
    )
