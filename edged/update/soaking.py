"""The soak of what serves, over its pauses: each of them ends a watch, and the next one goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from edged.models.resident import Resident
from edged.update.blame import of_the_device
from edged.update.machine import Event, Happened, Record, Soaked, State
from edged.update.policy import Wish
from edged.update.said import Said
from edged.update.shop import Shop
from edged.update.soak import CRASHES
from edged.update.watch import Watch


class Soaking:
    """That of one model."""

    def __init__(self, shop: Shop, post: Callable[[Happened], None]) -> None:
        """`post` takes what happens on the way."""
        self._shop = shop
        self._post = post
        self._watch: Watch | None = None
        self._watched: Resident | None = None
        self._before = (0, 0)
        """How many of its crashes and hangs are no part of the soak; less than none where earlier lives had some."""
        self._posted = 0
        """How many crashes of the soak have been."""

    def begin(self, resident: Resident | None) -> None:
        """It serves from now on: of its workers' ends those count that come, also while the soak is paused."""
        self._watched, self._posted = resident, 0
        self._before = (resident.deaths.crashes, resident.deaths.hangs) if resident else (0, 0)

    @property
    def soaked(self) -> Soaked | None:
        """What the soak under way has seen so far; None where there is none."""
        return self._watch.soaked if self._watch else None

    async def run(self, state: State, resident: Resident, wish: Callable[[], Wish | None]) -> Said:
        """Watches what becomes of live requests until there is a verdict. `wish`: what is wanted by now."""
        self._take_up(state, resident)
        previous, outcomes = state.previous, self._shop.outcomes
        now = outcomes.record(state.model, previous.revision) if previous else Record()
        old = max(state.held_against, now, key=lambda each: each.requests)
        watch = Watch(resident, old, state, (wish() or state).least_soak_s, outcomes)
        self._watch = watch
        try:
            event, reason, text = await watch.run(self._count, allow_unproven=lambda: (wish() or state).allow_unproven)
        finally:
            self._watch = None
        if event is Event.FAILED and (found := of_the_device(resident, self._shop.residency.failed, reason)):
            reason, text = found[0], f"{text}; {found[1]}"
        variant = resident.variant.name if resident.variant else ""
        return Said(Happened(event, text, reason), watch.evidence(), variant)

    async def rest(self, state: State, resident: Resident) -> NoReturn:
        """While the soak is paused its worker may end as well, which is kept as it happens."""
        self._take_up(state, resident)
        while True:
            count = resident.changes.count
            self._count()
            await resident.changes.after(count)

    def _take_up(self, state: State, resident: Resident) -> None:
        if resident is not self._watched:  # one that a start brought
            self._watched, self._posted, self._before = resident, state.crashes, (-state.crashes, 0)

    def _count(self) -> tuple[int, int]:
        """Its crashes and hangs so far; each crash is posted, so that it is kept, until more would change nothing."""
        assert self._watched is not None  # noqa: S101 - it has been taken up
        deaths, (crashes, hangs) = self._watched.deaths, self._before
        while self._posted < min(deaths.crashes - crashes, CRASHES):
            self._posted += 1
            self._post(Happened(Event.CRASHED, f"its worker ended: {self._watched.last_exit}"))
        return self._posted, deaths.hangs - hangs
