"""Builds in the background what loaded models could run better with, one thing after the other.

A model serves its next variant meanwhile, and changes over when the other is built. Whatever presses the device, or
waits for something to be built, ends what is being built here; it is begun again when nothing does any more.
"""

from __future__ import annotations

import asyncio
from typing import Any

from edged import clock
from edged.bundle.manifest import Variant
from edged.errors import EdgedError
from edged.models import restarts
from edged.models.loading import build
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.workshop import Workshop
from edged.types import Limits

# How long what was tried is left alone at first, and at most: twice as long each time.
_AGAIN_S, _LONGEST_S = 30.0, 3600.0

_Work = tuple[str, int, str]
"""A model, its revision, and the variant."""


class Deriving:
    """One for the daemon."""

    def __init__(self, residency: Residency, workshop: Workshop) -> None:
        self._residency = residency
        self._workshop = workshop
        self._paused = False
        self._times: dict[_Work, int] = {}
        """How often each was built, or was to be."""
        self._not_before_s: dict[_Work, float] = {}

    def take(self, limits: Limits) -> None:
        """These limits hold from now on."""
        self._paused = limits.background_paused or limits.save_space or limits.journal_only
        self._residency.changes.mark()

    async def run(self) -> None:
        """Builds what is to be built, until it is cancelled."""
        changes = self._residency.changes
        while True:
            count = changes.count
            if found := self._next():
                await self._build(*found)
            else:
                await changes.after(count)

    def _next(self) -> tuple[Resident, Variant] | None:
        """What to build now: for what matters most, and its best variant first."""
        if self._hindered:
            return None
        now_s = clock.monotonic()
        for resident in sorted(self._residency.all(), key=lambda each: each.manifest.priority):
            if not resident.steady:
                continue
            for variant in resident.choice.unbuilt:
                if self._not_before_s.get(_work(resident, variant), 0.0) <= now_s:
                    return resident, variant
        return None

    @property
    def _hindered(self) -> bool:
        return self._paused or self._workshop.wanted > 0

    async def _build(self, resident: Resident, variant: Variant) -> None:
        changes = self._residency.changes
        build_it = build(resident.source.folder, resident.manifest, variant, resident.terms, at_once=False)
        building = asyncio.ensure_future(build_it)
        try:
            while not building.done() and not self._hindered and resident.loaded:
                changed = asyncio.ensure_future(changes.after(changes.count))
                either: list[asyncio.Future[Any]] = [building, changed]
                try:
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
        finally:
            building.cancel()
            await asyncio.wait([building])
        if building.cancelled():
            return
        error = building.exception()
        if isinstance(error, EdgedError | OSError):
            self._fail(resident, variant, error)
        elif error is not None:
            raise error
        self._not_soon_again(_work(resident, variant), failed=error is not None)
        for each in self._residency.all():
            each.choice.look_again()
        changes.mark()

    def _fail(self, resident: Resident, variant: Variant, error: EdgedError | OSError) -> None:
        """What the device was short of it may have later; what an engine could not build it will not build then either.

        The one is tried again after a while, the other passed over until the model is loaded again.
        """
        resident.lost.keep(variant, error)
        if isinstance(error, EdgedError) and not restarts.is_short(error):
            resident.choice.pass_over(variant, error)

    def _not_soon_again(self, work: _Work, *, failed: bool) -> None:
        """What was built may be built once more at once, should it be unusable; what is missing ever again, not."""
        self._times[work] = self._times.get(work, 0) + 1
        delay_s = restarts.delay_s(self._times[work] + failed, _AGAIN_S, _LONGEST_S)
        self._not_before_s[work] = clock.monotonic() + delay_s
        asyncio.get_running_loop().call_later(delay_s, self._residency.changes.mark)


def _work(resident: Resident, variant: Variant) -> _Work:
    return resident.name, resident.revision, variant.name
