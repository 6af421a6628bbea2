"""The soak of what serves, over its pauses: each of them ends a watch, and the next one goes on from there."""

from __future__ import annotations

from collections.abc import Callable

from edged.models.resident import Resident
from edged.update.blame import of_the_device
from edged.update.machine import Event, Happened, Record, Soaked, State
from edged.update.policy import Wish
from edged.update.said import Said
from edged.update.shop import Shop
from edged.update.watch import Watch


class Soaking:
    """That of one model."""

    def __init__(self, shop: Shop, post: Callable[[Happened], None]) -> None:
        """`post` takes what happens on the way."""
        self._shop = shop
        self._post = post
        self._watch: Watch | None = None
        self._watched: Resident | None = None
        self._told = 0
        """How many of its crashes count no more."""

    def begin(self, resident: Resident | None) -> None:
        """It serves from now on: of its crashes those count that come, also while the soak is paused."""
        self._watched, self._told = resident, resident.deaths.crashes if resident else 0

    @property
    def soaked(self) -> Soaked | None:
        """What the soak under way has seen so far; None where there is none."""
        return self._watch.soaked if self._watch else None

    async def run(self, state: State, resident: Resident, wish: Callable[[], Wish | None]) -> Said:
        """Watches what becomes of live requests until there is a verdict. `wish`: what is wanted by now."""
        if resident is not self._watched:  # one that a start brought
            self._watched, self._told = resident, 0
        previous, outcomes = state.previous, self._shop.outcomes
        now = outcomes.record(state.model, previous.revision) if previous else Record()
        old = max(state.held_against, now, key=lambda each: each.requests)
        watch = Watch(resident, old, state, (wish() or state).least_soak_s, outcomes, self._told)
        self._watch = watch
        try:
            event, reason, text = await watch.run(self._post, allow_unproven=lambda: (wish() or state).allow_unproven)
        finally:
            self._watch, self._told = None, watch.told
        if event is Event.FAILED and (found := of_the_device(resident, self._shop.residency.failed, reason)):
            reason, text = found[0], f"{text}; {found[1]}"
        variant = resident.variant.name if resident.variant else ""
        return Said(Happened(event, text, reason), watch.evidence(), variant)
