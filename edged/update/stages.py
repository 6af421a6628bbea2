"""What an update does in each phase: carried out, and told as the event that came of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edged.bundle.manifest import Manifest, Variant, digest
from edged.errors import Code, EdgedError
from edged.models.library import STORE
from edged.models.resident import Resident
from edged.models.states import Source
from edged.types import Level
from edged.update import policy, swap, trial
from edged.update.collecting import collect, make_room
from edged.update.fetcher import Order, Origin
from edged.update.line import Line, stand_in_line, take_try
from edged.update.lineup import Lineup, target_of
from edged.update.machine import Effect, Event, Happened, Ref, Soaked, State
from edged.update.policy import Wish
from edged.update.reasons import Reason
from edged.update.said import Awaits, Said, Stage, Terms, deferred, said
from edged.update.shadow import Shadow
from edged.update.shop import Shop
from edged.update.soaking import Soaking


class Stages(Lineup):
    """The stages of one model's update. Each may be cancelled anywhere and begun again; what it raises is judged."""

    def __init__(self, shop: Shop, terms: Terms, post: Callable[[Happened], None]) -> None:
        """`post` takes what happens on the way."""
        super().__init__(shop)
        self.wish: Wish | None = None
        """What is wanted now; since a start nobody may have said."""
        self.progress: dict[str, Any] = {}
        """How far the download is, as the fetcher tells it."""
        self.manifest: Manifest | None = None
        """The manifest that was fetched last."""
        self.foreseen = ""
        """Why the two revisions will change places, as far as the manifest tells."""
        self._came = False
        """Whether anything has come in the tries in a row that the download under way is made of."""
        self._terms = terms
        self._compared: tuple[State, Said] | None = None
        """What the shadow said, while the route may not flip; a new trial is compared anew."""
        self._found_no_room: Ref | None = None
        """What there was no room for once already, though the other one had stepped aside."""
        self._died = False
        """Whether a worker has ended already on this trial or in its comparison: one may by no fault of its own."""
        self._soaking = Soaking(shop, post)
        self._hurried = asyncio.Event()

    def of(self, effect: Effect) -> Stage:
        """The stage that an effect begins."""
        return {
            Effect.FETCH: self.fetch,
            Effect.TAKE_IN: self.take_in,
            Effect.TRY: self.attempt,
            Effect.SWAP: self.swap,
            Effect.SHADOW: self.shadow,
            Effect.SOAK: self.soak,
            Effect.SETTLE: self.settle,
        }[effect]

    async def fetch(self, state: State) -> Said:
        """Brings the target into staging, unless this device has it."""
        shop, target = self._shop, target_of(state)
        source = await asyncio.to_thread(shop.library.find, state.model, target.revision, target.digest)
        if source is not None and not await asyncio.to_thread(self._mends, source):
            return said(Event.FETCHED, "it is here already")
        if state.attempts:
            await self._pause(policy.fetch_delay_s(state.attempts, random.random()))  # noqa: S311 - spreads a fleet
        async with shop.fetching:
            self.progress = {}
            await asyncio.to_thread(shop.library.store.discard_other_staging, state.model, target.revision)
            try:
                await self._bring_or_make_room(state, target)
            except EdgedError as error:
                if error.code is Code.DOWNLOAD_FAILED and state.attempts + 1 < policy.FETCH_ATTEMPTS:
                    return said(Event.RETRY, str(error))
                came, self._came = self._came, False
                if came or error.code is not Code.STORAGE_FULL:  # who only waits for room was not tried
                    await take_try(shop, state.model, target.revision, came=came)
                raise
            self._came = False
            await take_try(shop, state.model, target.revision, came=True)
        return said(Event.FETCHED, "", **self.progress)

    def _mends(self, source: Source) -> bool:
        """Whether what is here is damaged, and so has to come again. Raises OSError and EdgedError."""
        return source.origin == STORE and self._shop.library.store.discard_damaged(
            source.manifest.name, source.manifest.revision
        )

    async def _bring_or_make_room(self, state: State, target: Ref) -> None:
        line = await stand_in_line(self._shop, state.model)
        try:
            await self._bring(state, target, line.lacking_bytes)
        except EdgedError as error:
            if error.code is not Code.STORAGE_FULL:
                raise
            why = f"{state.model} revision {target.revision} found no room"
            await make_room(self._shop, why, [each.key for each in line.behind])
            await self._bring_last(state, target, line)

    async def _bring_last(self, state: State, target: Ref, line: Line) -> None:
        """Once all has gone that may; what it waits for then is said."""
        try:
            await self._bring(state, target, line.lacking_bytes)
        except EdgedError as error:
            if error.code is not Code.STORAGE_FULL or not line.ahead:
                raise
            names = ", ".join(f"model {model} revision {revision}" for model, revision in (e.key for e in line.ahead))
            text = f"{error.message}; it waits for room that {names} takes, whose download comes first"
            raise EdgedError(error.code, text, error.hint) from error

    async def _bring(self, state: State, target: Ref, spared_bytes: int) -> None:
        """`spared_bytes`: room that is left to others."""
        store = self._shop.library.store
        order = Order(
            model=state.model,
            revision=target.revision,
            staging=store.staging(state.model, target.revision),
            store=store.root,
            have=tuple(source.folder for source in self._shop.library.factory(state.model)),
            room_bytes=max(0, await asyncio.to_thread(store.room_bytes) - spared_bytes),
            reserve_bytes=store.reserve_bytes,
        )
        manifest = await self._bring_manifest(self._terms.origin(), state.model, target.revision, order.staging)
        self.foreseen = await self._foresee(state, Source(order.staging, manifest, "repository"))
        here_bytes = await asyncio.to_thread(store.staged_bytes, state.model, target.revision)
        try:
            await self._shop.fetcher.bring_revision(self._terms.origin(), order, self._follow)
        except EdgedError:
            self._came |= await asyncio.to_thread(store.staged_bytes, state.model, target.revision) > here_bytes
            raise

    async def _pause(self, longest_s: float) -> None:
        self._hurried.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._hurried.wait()

    def hurry(self) -> None:
        """Somebody asks: what waits between two tries of a download waits no longer."""
        self._hurried.set()

    async def foresee(self, state: State, revision: int, origin: Origin) -> str:
        """What would become of an update to a revision there, as far as its manifest tells. Raises EdgedError."""
        source = await asyncio.to_thread(self._shop.library.find, state.model, revision)
        if source is None:
            # Two deep: the fetcher may write to the folder above it as well.
            folder = self._shop.state_folder / "foreseen/manifest"
            source = Source(folder, await self._bring_manifest(origin, state.model, revision, folder), "repository")
        try:
            return await self._foresee(state, source)
        except trial.FailedError as error:
            return f"it cannot serve here: {error.text}"

    async def _bring_manifest(self, origin: Origin, model: str, revision: int, into: Path) -> Manifest:
        found = await self._shop.fetcher.bring_manifest(origin, model, revision, into, self._terms.told)
        self.manifest = found
        return found

    async def _foresee(self, state: State, source: Source) -> str:
        """Whether the revisions will change places, and why. Raises FailedError where it cannot serve here."""
        resident = self._shop.make_resident(source)
        serving = self._check(state, resident)
        with contextlib.suppress(EdgedError):  # memory may be short now, or a device taken, and not later
            trial.check_taken(resident, self._shop.residency)
            return await swap.reason(resident, serving)
        return ""

    def _check(self, state: State, resident: Resident) -> Resident | None:
        """What its manifest says against it: gives what serves now. Raises FailedError."""
        serving = self.resident(state.model, state.serving)
        if state.cause != "rollback":  # who goes back by hand wants just that
            trial.check_signature(serving.manifest if serving else None, resident.manifest)
        trial.check_runnable(resident)
        return serving

    def _follow(self, told: Mapping[str, Any]) -> None:
        if told.get("event") in ("progress", "staged"):
            self.progress = {name: value for name, value in told.items() if name not in ("event", "path", "more")}
            self._shop.changes.mark()
        self._terms.told(told)

    async def take_in(self, state: State) -> Said:
        """Verifies every byte once more and moves the revision into the store."""
        target, store = target_of(state), self._shop.library.store
        staging = store.staging(state.model, target.revision)
        if await asyncio.to_thread(staging.exists):
            try:
                await asyncio.to_thread(store.take_in, staging)
            except EdgedError as error:
                if error.code is Code.DIGEST_MISMATCH and state.refetches < policy.REFETCHES:
                    return said(Event.RETRY, str(error))
                raise
        source = await asyncio.to_thread(self._shop.library.find, state.model, target.revision, target.digest)
        if source is None:
            raise EdgedError(
                Code.DIGEST_MISMATCH, f"{state.model} revision {target.revision} is not in the store whole"
            )
        ref = Ref(target.revision, digest(source.manifest))
        self._died = False
        return Said(Happened(Event.TAKEN_IN, target=ref), {"digest": ref.digest})

    async def attempt(self, state: State) -> Said:
        """Shows the revision its goldens, and holds it to its budgets. Raises FailedError."""
        target, shop = target_of(state), self._shop
        self._compared = None
        async with shop.trying:
            resident = await self.make(state.model, target)
            serving = self._check(state, resident)
            trial.check_accelerators(resident, shop.residency)
            trial.check_taken(resident, shop.residency)
            self.foreseen = why = await swap.reason(resident, serving)
            if why:
                gate = self._terms.gate(state.model)
                return deferred(f"{gate}; {why}", Awaits.GATE) if gate else said(Event.SWAPS, why)
            evidence = await self._try(resident)
        return said(Event.PASSED, "", **evidence)

    async def _try(self, resident: Resident) -> dict[str, Any]:
        """Raises FailedError, and EdgedError for what is not the revision's fault."""
        shop, tried = self._shop, tuple(resident.choice.runnable)
        best = tried[0]
        try:
            evidence = await trial.try_spares(resident)
            if objections := resident.choice.objections:
                evidence["not_tried"] = objections
            await trial.build_best(resident)
            found = shop.residency.find(resident.name, resident.revision)
            if found is None or not found.loaded:
                shop.residency.add_on_trial(resident)
            worker = await trial.wait_loaded(resident)
            nominal = shop.level() is Level.NOMINAL
            evidence[best.name] = await trial.try_best(worker, resident.manifest, best, nominal=nominal)
        except trial.FailedError as error:
            await self._excuse(resident, tried)
            if not (resident.leaving or resident.resting):
                await self._excuse_death(resident, error)
                raise
            text = f"revision {resident.revision} was unloaded on its trial: {resident.reason}"
            raise EdgedError(Code.MODEL_UNAVAILABLE, text, "it is tried again") from error
        return evidence

    async def _excuse(self, resident: Resident, tried: Sequence[Variant]) -> None:
        """Raises EdgedError where what it was tried on has failed meanwhile; then the next trial begins anew."""
        try:
            trial.check_sound(resident.revision, tried, self._shop.residency.failed)
        except EdgedError:
            await self.end(resident.name, resident.revision)
            raise

    async def _excuse_death(self, resident: Resident, error: trial.FailedError) -> None:
        """Raises EdgedError for the first death, after which the trial begins anew; the second is its own fault."""
        if isinstance(error, trial.DiedError) and not self._died:
            self._died = True
            await self.end(resident.name, resident.revision)
            raise EdgedError(Code.WORKER_CRASHED, error.text) from error

    async def swap(self, state: State) -> Said:
        """Has the serving revision make room, then tries the new one; whatever comes of it, one of the two answers.

        Raises FailedError, or EdgedError.
        """
        target, serving = target_of(state), self.resident(state.model, state.serving)
        async with self._shop.trying:
            resident = await self.make(state.model, target)
            trial.check_accelerators(resident, self._shop.residency)
            trial.check_taken(resident, self._shop.residency)
            await swap.reason(resident, serving)  # others may have taken the room since; nobody steps aside in vain
            try:
                if serving is not None:
                    await swap.step_aside(serving, target, self._shop)
                evidence = await self._try_alone(resident, target)
            except BaseException:
                await self.swap_back(state)
                raise
        return said(Event.SWAPPED, "no comparison: one of the two can be loaded at a time", **evidence)

    async def _try_alone(self, resident: Resident, target: Ref) -> dict[str, Any]:
        """What takes the room in between may do so once; it is not the revision's fault. Raises FailedError."""
        before, self._found_no_room = self._found_no_room, None
        try:
            return await self._try(resident)
        except EdgedError as error:
            if error.code is not Code.MEMORY_SHORT:
                raise
            if before != target:
                self._found_no_room = target
                raise
            text = f"there is no room for it, even alone: {error.message}"
            raise trial.FailedError(Reason.MEMORY_BUDGET, text) from error

    async def swap_back(self, state: State) -> None:
        """The new revision ends, and the serving one loads again."""
        await self.end_trial(state.model, target_of(state).revision, state.serving)

    async def shadow(self, state: State) -> Said:
        """Has the revision answer copies of live requests, then goes on when the route may flip. Raises FailedError."""
        resident = self.resident(state.model, state.target)
        if resident is None or not resident.ready:
            return said(Event.RETRY, "its worker is gone")
        if self._compared is None or self._compared[0].target != state.target:
            found = await self._compare(state, resident)
            if found.happened.event is Event.RETRY:
                return found
            self._compared = (state, found)
        if why := self._terms.gate(state.model):
            return deferred(why, Awaits.GATE)
        return self._compared[1]

    async def _compare(self, state: State, resident: Resident) -> Said:
        best, worker = resident.choice.runnable[0].name, resident.worker
        if not resident.manifest.acceptance.shadow.samples:
            return said(Event.SKIPPED, "no comparison: its manifest asks for none")
        if worker is None or self.resident(state.model, state.serving) is None:
            return said(Event.SKIPPED, "no comparison: nothing serves that it could be held against")
        shadow = Shadow(resident.manifest, worker)
        self._shop.traffic.shadow(state.model, shadow.take)
        try:
            why = await shadow.run(self._shop.settings.shadow_max_s)
        except EdgedError as error:
            if resident.leaving or resident.resting:
                return said(Event.RETRY, f"it was unloaded: {resident.reason}")
            if error.code is Code.WORKER_CRASHED and not self._died:
                self._died = True
                return said(Event.RETRY, f"it is tried again: {error}")
            reason = Reason.WORKER_HANG if error.code is Code.WORKER_HANG else Reason.CRASH_LOOP
            raise trial.FailedError(reason, str(error), best) from error
        finally:
            self._shop.traffic.shadow(state.model, None)
        evidence = shadow.agreement.evidence()
        reason_found, text = shadow.verdict()
        if why:
            return said(Event.SKIPPED, f"no comparison: {why}", **evidence)
        if reason_found is not None:
            raise trial.FailedError(reason_found, text, best)
        return said(Event.PASSED, text, **evidence)

    async def flip_over(self, state: State) -> None:
        """Routes to the revision that begins to soak."""
        await super().flip_over(state)
        self._soaking.begin(self.resident(state.model, state.serving))

    async def soak(self, state: State) -> Said:
        """Watches what becomes of live requests until there is a verdict."""
        return await self._soaking.run(state, self._soaks(state), lambda: self.wish)

    async def rest(self, state: State) -> Said:
        """While a soak is paused what ends its worker counts all the same."""
        await self._soaking.rest(state, self._soaks(state))

    def _soaks(self, state: State) -> Resident:
        resident = self.resident(state.model, state.serving)
        if resident is None:
            raise trial.FailedError(Reason.LOAD_FAILED, "it could not be loaded at the start")
        return resident

    @property
    def soaked(self) -> Soaked | None:
        """What the soak under way has seen so far; None where there is none."""
        return self._soaking.soaked

    async def settle(self, state: State) -> Said:
        """The revision before ends; what nothing needs any more is collected."""
        shop = self._shop
        shop.residency.settle(state.model)
        if state.previous is not None:
            await self.end(state.model, state.previous.revision)
        with contextlib.suppress(OSError):  # the next collection does it
            await collect(shop)
        if state.previous is not None:
            before = state.previous
            source = await asyncio.to_thread(shop.library.find, state.model, before.revision, before.digest)
            if source is not None:
                self.know(source)
        return said(Event.SETTLED)
