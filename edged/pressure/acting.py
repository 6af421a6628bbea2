"""Carries out what limits ask of the models that are loaded: lighter variants, and rest for those that nobody asks.

The rest of the limits is serving's. It wakes only while idle models are to go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.types import Level, Limits

IdleS = Callable[[Resident], float]
"""For how long nobody has asked for a resident; 0 while it has requests."""


class Acting:
    """One for the daemon."""

    def __init__(self, residency: Residency, idle_s: IdleS, idle_limit_s: float) -> None:
        """`idle_limit_s`: a model that nobody asked for so long may be unloaded."""
        self._idle_limit_s = idle_limit_s
        self._residency = residency
        self._idle_s = idle_s
        self._limits = Limits()
        self._idle: dict[Resident, str] = {}
        """What was told to rest since nobody asks for it, and the words that it was told."""
        self._told = asyncio.Event()

    def take(self, limits: Limits) -> None:
        """These limits hold from now on; when idle models may stay, those that rest are loaded again."""
        relieved = self._limits.unload_idle and not limits.unload_idle
        self._limits = limits
        self.prefer()
        if relieved:
            for resident, why in self._idle.items():
                resident.wake(why=why)
            self._idle.clear()
        self._told.set()

    def limit(self, idle_limit_s: float) -> None:
        """This holds from now on, also for those that have been idle for so long already."""
        self._idle_limit_s = idle_limit_s
        self._told.set()

    def prefer(self) -> None:
        """Has the variants run that the limits ask for, also by what came since they did; not by what is on trial."""
        for resident in self._residency.routed():
            variant = self._limits.of(resident.name).variant
            resident.choice.prefer(variant, f"the device's pressure is {self._limits.level}")

    async def run(self) -> None:
        """Lets idle models rest, until it is cancelled."""
        while True:
            self._told.clear()
            wait_s = self._let_rest() if self._limits.unload_idle else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._told.wait()
            except TimeoutError:
                continue

    def _let_rest(self) -> float:
        """Has those rest that are idle, the least important first; how long until the next may be."""
        wait_s = self._idle_limit_s
        for resident in least_important_first(self._residency.all()):
            if not resident.steady:
                continue
            idle_s = self._idle_s(resident)
            if idle_s >= self._idle_limit_s:
                why = rest_text(idle_s, self._limits.level)
                if resident.rest(why):
                    self._idle[resident] = why
            else:
                wait_s = min(wait_s, self._idle_limit_s - idle_s)
        return max(wait_s, 1.0)


def least_important_first(residents: Iterable[Resident]) -> list[Resident]:
    """By the priority that their manifests declare. Pure."""
    return sorted(residents, key=lambda each: (-each.manifest.priority, each.name, each.revision))


def rest_text(idle_s: float, level: Level) -> str:
    """Why a model rests. Pure."""
    return f"nobody has asked for {idle_s:.0f} s, and the device's pressure is {level}"
