"""What the device's own administrator, or a command, decides about a model: it overrides the plan, and is seen to."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from edged import clock
from edged.errors import Code, EdgedError
from edged.models.store import check_model_name
from edged.update.agent import Agent
from edged.update.fetcher import NOWHERE, Order
from edged.update.machine import Event, Happened, Phase, State
from edged.update.reasons import Reason
from edged.update.records import Pin, Quarantined

# By model, what was gone back from and to last.
_WENT_BACK = "went_back "


class WentBack(msgspec.Struct, frozen=True):
    """A revision that was given up by somebody's word, and the one that serves instead."""

    of: int
    to: int


class Administration:
    """Decisions carried out by the agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def pin(self, model: str, revision: int, cause: str) -> None:
        """Has a model go to a revision and stay there, whatever the plan says. Raises EdgedError."""
        self._check_kept()
        check_model_name(model)
        floor = self._agent.floor(model)
        if revision < floor:
            text = f"revision {revision} of model {model} lies below {floor}, the least that is signed as allowed"
            raise EdgedError(Code.ROLLBACK_ATTACK, text, f"name {floor} or a higher one")
        ledger = self._agent.shop.ledger
        for name, found in (await ledger.do(ledger.journal.quarantined)).items():
            if (found.model, found.revision) == (model, revision) and self._agent.shop.environment.holds(found):
                text = f"revision {revision} of model {model} is quarantined: {found.reason}: {found.text}"
                raise EdgedError(
                    Code.INVALID_ARGUMENT, text, f"`edgectl quarantine release {name[:8]}` lets it be tried"
                )
        await self._check_within_reach(model, revision)
        pin = Pin(model=model, revision=revision, cause=cause, at=clock.wall())
        await ledger.do(ledger.journal.pin, pin)
        self._agent.pins[model] = pin
        await self._agent.reconsider(now=True)

    async def unpin(self, model: str) -> None:
        """Lets the plan decide again. Raises EdgedError."""
        self._check_kept()
        if model not in self._agent.pins:
            raise EdgedError(
                Code.INVALID_ARGUMENT, f"model {model[:64]!r} is not pinned", "`edgectl explain MODEL` tells pins"
            )
        ledger = self._agent.shop.ledger
        await ledger.do(ledger.journal.unpin, model)
        self._agent.pins.pop(model, None)  # somebody else may have been as quick
        await self._remember(model, None)
        await self._agent.reconsider(now=True)

    async def roll_back(self, model: str, revision: int) -> int:
        """Goes back to `revision`; gives which. Raises EdgedError.

        0: to the one before, once. Said again of a model that went back and serves that revision still, it changes
        nothing: whoever says it twice, or again after a restart, means the revision that was bad.
        """
        course = self._agent.course(model)
        back = await self._went_back(model)
        state = course.state
        if not revision and back:
            if state.serving and state.serving.revision == back.to:
                return back.to
            revision = back.to if state.serving and state.serving.revision == back.of else 0
        target = self._target(state, revision)
        if not _is_judged(state, target):
            self._check_kept()
            await self._check_within_reach(model, target)
        if state.serving is not None and state.serving.revision != target:
            await self._remember(model, WentBack(state.serving.revision, target))
        state = course.state
        if _is_judged(state, target):
            course.post(Happened(Event.FAILED, "an administrator went back", Reason.OPERATOR))
            await course.heard()
            return target
        await self.pin(model, target, "rollback")
        return target

    def _check_kept(self) -> None:
        """Raises EdgedError (journal_unwritable) where what is decided now would be forgotten at the next start."""
        if self._agent.shop.ledger.journal.stands_in:
            text = "the journal cannot be written: this would be forgotten at the next start"
            hint = "mend that (`edgectl status` says what it is), and restart edged"
            raise EdgedError(Code.JOURNAL_UNWRITABLE, text, hint)

    async def _check_within_reach(self, model: str, revision: int) -> None:
        """Raises EdgedError (revision_not_found) for what is neither on this device nor could be fetched."""
        agent, course = self._agent, self._agent.courses.get(model)
        serves = course and course.state.serving and course.state.serving.revision == revision
        if serves or agent.looking.anywhere:
            return
        if await asyncio.to_thread(agent.shop.library.find, model, revision) is None:
            text = f"revision {revision} of model {model} is not on this device, and {NOWHERE}"
            hint = "set update.repository, or bring one on a stick with `edgectl update --from DIR`"
            raise EdgedError(Code.REVISION_NOT_FOUND, text, hint)

    def _target(self, state: State, revision: int) -> int:
        target = revision or (state.previous.revision if state.previous else 0)
        if not target:
            text = f"model {state.model} has served no other revision that could be gone back to"
            raise EdgedError(Code.REVISION_NOT_FOUND, text, "name one with --to")
        return target

    async def _went_back(self, model: str) -> WentBack | None:
        ledger = self._agent.shop.ledger
        document = await ledger.do(ledger.journal.fact, _WENT_BACK + model)
        with contextlib.suppress(msgspec.MsgspecError):
            return None if document is None else msgspec.json.decode(document, type=WentBack | None)
        return None

    async def _remember(self, model: str, back: WentBack | None) -> None:
        ledger = self._agent.shop.ledger
        await ledger.do(ledger.journal.keep_fact, _WENT_BACK + model, msgspec.json.encode(back))

    async def release(self, name: str) -> list[Quarantined]:
        """Lets keys be tried again whose name begins with `name`, or all of a model of that name. Raises EdgedError."""
        self._check_kept()
        ledger = self._agent.shop.ledger
        known = await ledger.do(ledger.journal.quarantined)
        found = {key: each for key, each in known.items() if key.startswith(name) or each.model == name}
        if not found:
            raise EdgedError(Code.INVALID_ARGUMENT, f"nothing quarantined is called {name[:64]!r}", "see the list")
        for key in found:
            await ledger.do(ledger.journal.release, key)
        await self._agent.reconsider(now=True)
        return list(found.values())

    async def mend(self, model: str, revision: int) -> None:
        """Fetches again what an installed revision lacks. Raises EdgedError, or OSError."""
        store = self._agent.shop.library.store
        staging = store.staging(model, revision)
        async with self._agent.shop.fetching:
            order = Order(
                model=model,
                revision=revision,
                staging=staging,
                store=store.root,
                room_bytes=await asyncio.to_thread(store.room_bytes),
                reserve_bytes=store.reserve_bytes,
            )
            await self._agent.shop.fetcher.bring_revision(self._agent.origin(), order, self._agent.told)
            await asyncio.to_thread(store.take_in, staging)


def _is_judged(state: State, target: int) -> bool:
    """Whether to go back to `target` is a verdict over what soaks, which needs no pin."""
    return state.phase is Phase.SOAKING and state.previous is not None and state.previous.revision == target
