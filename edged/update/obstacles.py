"""What keeps updates of this device from going on now, and routes from flipping."""

from __future__ import annotations

from edged import clock
from edged.errors import Code, EdgedError
from edged.update import pauses, policy
from edged.update.leases import Leases
from edged.update.machine import Phase
from edged.update.pauses import Pauses
from edged.update.share import Share
from edged.update.shop import Shop


class Obstacles:
    """All of them: pressure and a full disk, leases, maintenance windows, a journal that stands in."""

    def __init__(self, shop: Shop, share: Share, holds: Leases) -> None:
        self.pauses = Pauses()
        """What the limits in force ask for."""
        self._shop = shop
        self._share = share
        self._holds = holds

    def gate(self, model: str) -> str:
        """Why the route of `model` may not flip now; nothing when it may."""
        if why := self.paused(Phase.SHADOW):
            return why
        now_s = clock.monotonic()
        lease = self._holds.on(model, now_s)
        if lease is not None:
            return f"{lease.owner} holds it for {lease.ends_s - now_s:.0f} s more"
        local = clock.wall().astimezone()
        if not self._share.may_change(model, local):
            return "it waits for the maintenance window of the plan"
        if not policy.in_window(self._shop.settings.window, f"{local:%H:%M}"):
            return f"it waits for the maintenance window {self._shop.settings.window}"
        return ""

    def paused(self, phase: Phase) -> str:
        """Why nothing is done in a phase now; nothing when it is."""
        if self._shop.ledger.journal.stands_in and phase in pauses.BEFORE_THE_SOAK:
            return pauses.STANDS_IN
        return self.pauses.of(phase)

    def check_room(self) -> None:
        """Raises EdgedError (storage_full) while nothing may be written but the journal."""
        if self.pauses.full:
            raise EdgedError(Code.STORAGE_FULL, self.pauses.full, "free space on the disk of the state folder")
