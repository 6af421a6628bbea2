"""A device's share of a plan: what is wanted of it, and from when on."""

from __future__ import annotations

from datetime import datetime

import msgspec

from edged import clock
from edged.update import plan
from edged.update.policy import Decision


class Device(msgspec.Struct, frozen=True):
    """Who this device is in a plan."""

    name: str
    fleet: str
    hardware_class: str


class Share:
    """What plans want of one device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._first_seen: dict[tuple[str, int], float] = {}
        """By model and revision when it was wanted first, by the monotonic clock."""

    def wanted(self, followed: plan.Plan | None, now: datetime, taken: dict[str, int]) -> dict[str, plan.Wanted]:
        """By model, of those of the device's class. `taken`: by model the revision that serves."""
        if followed is None:
            return {}
        device = self._device
        found = plan.evaluate(followed, device.name, device.hardware_class, now, taken)
        return {each.model: each for each in found}

    def after_jitter(self, decision: Decision, found: plan.Wanted) -> Decision:
        """The same once the device's turn has come, which is counted from when it was wanted first; else to wait."""
        seen_s = self._first_seen.setdefault((found.model, found.revision), clock.monotonic())
        left_s = seen_s + found.jitter_s - clock.monotonic()
        if left_s <= 0:
            return decision
        return Decision(why=f"{decision.why}; the download begins in {left_s:.0f} s, spread over the fleet")
