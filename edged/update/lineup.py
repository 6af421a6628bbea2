"""Which of a model's revisions are loaded, which the route names, and how those end that neither needs."""

from __future__ import annotations

import asyncio
import contextlib

from edged.models.resident import Resident
from edged.models.states import Source
from edged.update import swap, trial
from edged.update.machine import Ref, State
from edged.update.reasons import Reason
from edged.update.shop import Shop


class Lineup:
    """The residents of one model, as its update moves them."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def know(self, source: Source) -> None:
        """An administrator may have this revision loaded: it has served here, or came with the image."""
        self._shop.residency.know(self._shop.make_resident(source))

    def resident(self, model: str, ref: Ref | None) -> Resident | None:
        """The resident of a revision; None where it is not loaded."""
        return None if ref is None else self._shop.residency.find(model, ref.revision)

    async def make(self, model: str, ref: Ref) -> Resident:
        """The resident of a revision, started or not. Raises FailedError."""
        found = self.resident(model, ref)
        if found is not None:
            return found
        source = await asyncio.to_thread(self._shop.library.find, model, ref.revision, ref.digest)
        if source is None:
            text = f"revision {ref.revision} is not on this device as it was signed"
            raise trial.FailedError(Reason.DIGEST_MISMATCH, text)
        return self._shop.make_resident(source)

    async def flip_over(self, state: State) -> None:
        """Routes to the revision that begins to soak."""
        if state.serving is not None and state.swaps:
            swap.change_over(state.model, state.serving, state.previous, self._shop)
        elif state.serving is not None:
            await self._flip(state.model, state.serving, keep=state.previous is not None)

    async def flip_back(self, state: State, before: Ref) -> None:
        """Routes to what served before the soak of `state`, which answers what waits for the other too, where it can.

        A revision that hung has a new worker in no time: whatever still waits for it would hang there next.
        """
        if not state.swaps:
            await self._flip(state.model, before, keep=False)
            answers, left = self.resident(state.model, before), self.resident(state.model, state.target)
            if left is not None and answers is not None and answers.expected:
                self._shop.traffic.hand_on(left)
            return
        with contextlib.suppress(trial.FailedError):
            swap.change_back(state.model, await self.make(state.model, before), target_of(state), self._shop)

    async def _flip(self, model: str, ref: Ref, *, keep: bool) -> None:
        """Routes to a revision, started where it is not."""
        residency = self._shop.residency
        found = residency.find(model, ref.revision)
        if found is None or not found.loaded:  # an administrator may have unloaded it
            with contextlib.suppress(trial.FailedError):
                residency.add_on_trial(await self.make(model, ref))
        if residency.find(model, ref.revision) is not None:
            residency.flip(model, ref.revision, keep=keep)

    async def end_trial(self, model: str, revision: int, serving: Ref | None) -> None:
        """Ends a revision's worker; what serves loads again where it had made room for that."""
        await self.end(model, revision)
        resident = self.resident(model, serving)
        if resident is not None:
            resident.wake(takes_over=True)

    async def end(self, model: str, revision: int) -> None:
        """Ends a revision's worker once its requests are answered; what serves stays, whoever wants it gone."""
        shop = self._shop
        resident = shop.residency.withdraw(model, revision)
        if resident is not None:
            await shop.traffic.release(resident, shop.drain_s())
            if shop.residency.withdraw(model, revision) is not resident:
                return  # an administrator has had it serve meanwhile
            if await shop.residency.end(resident):
                shop.traffic.forget(resident)
                shop.outcomes.forget(model, revision)


def target_of(state: State) -> Ref:
    """What a phase with work is about."""
    assert state.target is not None  # noqa: S101 - a phase with work has one
    return state.target
