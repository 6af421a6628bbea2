"""The leases of applications in all lives of the daemon: a start grants again what was left of them."""

from __future__ import annotations

import contextlib

import msgspec

from edged import clock
from edged.errors import EdgedError
from edged.update.holds import Holds, Lease, Left
from edged.update.shop import Ledger

_FACT = "leases"


class Leases:
    """What applications hold, kept in the journal."""

    def __init__(self, ledger: Ledger) -> None:
        self._holds = Holds()
        self._ledger = ledger
        self._written: list[Left] = []

    async def take(self, owner: str, model: str, seconds: float, lease: str = "") -> Lease:
        """A new lease, or with `lease` a running one renewed. Raises EdgedError."""
        now_s = clock.monotonic()
        taken = self._holds.take(owner, model, now_s + seconds, now_s, lease)
        if all(each.id != taken.id or each.left_s < seconds for each in self._written):
            await self.keep()  # else a start grants as much already: who renews often has nothing written for that
        return taken

    async def release(self, lease: str) -> bool:
        """Ends a lease; whether there was one."""
        released = self._holds.release(lease)
        if released:
            await self.keep()
        return released

    def on(self, model: str, now_s: float) -> Lease | None:
        """The lease that holds `model` for longest; None when it may change."""
        return self._holds.on(model, now_s)

    async def keep(self) -> None:
        """Keeps what is left of each: what has passed since is lost to a power cut, and held once more."""
        left = self._holds.left(clock.monotonic())
        if left != self._written:
            with contextlib.suppress(EdgedError):  # they hold in this life; what takes nothing is told elsewhere
                await self._ledger.do(self._ledger.journal.keep_fact, _FACT, msgspec.json.encode(left))
                self._written = left

    async def recall(self) -> None:
        """Grants again what was kept. Raises EdgedError."""
        self._written = await self._ledger.recall(_FACT, list[Left]) or []
        self._holds.grant(self._written, clock.monotonic())
