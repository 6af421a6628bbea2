"""A device's share of a plan: what is wanted of it, from when on, and when it may change."""

from __future__ import annotations

import contextlib
from datetime import datetime

import msgspec

from edged import clock
from edged.errors import EdgedError
from edged.update import plan
from edged.update.policy import Decision
from edged.update.shop import Ledger

_FACT = "share"


class Device(msgspec.Struct, frozen=True):
    """Who this device is in a plan."""

    name: str
    fleet: str
    hardware_class: str


class Waited(msgspec.Struct, frozen=True):
    """How long a revision has been wanted, while edged ran, of what it is to wait before it is fetched."""

    revision: int
    seconds: float


class Window(plan.Window, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A window of a plan, as it is read back: what a later release has added to it is passed over."""


class Kept(msgspec.Struct, frozen=True):
    """What the next start has to know of the plan before it has seen it, by model."""

    windows: dict[str, tuple[Window, ...]] = {}
    waited: dict[str, Waited] = {}


class _Turn(msgspec.Struct):
    """Since when a revision is wanted, by the monotonic clock, and how long it has to wait."""

    revision: int
    since_s: float
    longest_s: float


class Share:
    """What plans want of one device."""

    def __init__(self, device: Device, ledger: Ledger) -> None:
        self._device = device
        self._ledger = ledger
        self._followed: plan.Plan | None = None
        self._windows: dict[str, tuple[Window, ...]] = {}
        self._turns: dict[str, _Turn] = {}
        self._written = msgspec.json.encode(Kept())

    async def recall(self) -> None:
        """Reads what was kept. Raises EdgedError."""
        kept, now_s = await self._ledger.recall(_FACT, Kept) or Kept(), clock.monotonic()
        self._written = msgspec.json.encode(kept)
        self._windows = dict(kept.windows)
        self._turns = {
            model: _Turn(each.revision, now_s - each.seconds, each.seconds) for model, each in kept.waited.items()
        }

    async def follow(self, followed: plan.Plan | None, now: datetime) -> None:
        """Goes by a plan from now on; None: by what was kept of the last one."""
        if followed is None or followed is self._followed:
            return
        self._followed, wanted, before = followed, self.wanted(followed, now, {}), self._windows
        self._windows = {model: _kept(each.windows) for model, each in wanted.items() if each.windows}
        self._turns = {model: each for model, each in self._turns.items() if model in wanted}
        if self._windows != before:
            await self.keep()  # before anything is begun that is not to change outside of them

    async def keep(self) -> None:
        """Keeps what is to be known after the next start."""
        now_s = clock.monotonic()
        waited = {
            model: Waited(each.revision, min(now_s - each.since_s, each.longest_s))
            for model, each in self._turns.items()
        }
        document = msgspec.json.encode(Kept(self._windows, waited))
        if document != self._written:
            with contextlib.suppress(EdgedError):  # it is tried again in a while, and told elsewhere
                await self._ledger.do(self._ledger.journal.keep_fact, _FACT, document)
                self._written = document

    def wanted(self, followed: plan.Plan | None, now: datetime, taken: dict[str, int]) -> dict[str, plan.Wanted]:
        """By model, of those of the device's class. `taken`: by model the revision that serves."""
        if followed is None:
            return {}
        device = self._device
        found = plan.evaluate(followed, device.name, device.hardware_class, now, taken)
        return {each.model: each for each in found}

    def may_change(self, model: str, now: datetime) -> bool:
        """Whether the plan's maintenance windows let a model change at `now` (aware, in the device's local zone)."""
        return plan.within(self._windows.get(model, ()), now)

    def after_jitter(self, decision: Decision, found: plan.Wanted) -> Decision:
        """The same once the device's turn has come, which is counted from when it was wanted first; else to wait."""
        now_s, turn = clock.monotonic(), self._turns.get(found.model)
        if turn is None or turn.revision != found.revision:
            turn = self._turns[found.model] = _Turn(found.revision, now_s, found.jitter_s)
        turn.longest_s = found.jitter_s
        left_s = turn.since_s + found.jitter_s - now_s
        if left_s <= 0:
            return decision
        return Decision(why=f"{decision.why}; the download begins in {left_s:.0f} s, spread over the fleet")


def _kept(windows: tuple[plan.Window, ...]) -> tuple[Window, ...]:
    return msgspec.convert(windows, tuple[Window, ...], from_attributes=True)
