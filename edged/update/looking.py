"""Where the plan comes from: the repository of the settings, or one on a stick; and what it said last."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path

from edged import clock
from edged.errors import Code, EdgedError
from edged.events import Severity
from edged.update import plan, policy
from edged.update.fetcher import Origin
from edged.update.heard import Heard
from edged.update.shop import Shop

# So long one look takes at most: whoever gives it a little at a time has nobody wait for the next one, or for a stick.
_LONGEST_S = 300.0


class Looking:
    """One look after the other."""

    def __init__(self, shop: Shop, fleet: str, check_room: Callable[[], None]) -> None:
        """`check_room` raises EdgedError while nothing may be written."""
        self.plan: plan.Plan | None = None
        """What is to be followed; None before the first look."""
        self.heard = Heard()
        self.last_look = ""
        """How the repository answered last."""
        self.stick: Path | None = None
        """A repository on a stick that is looked at instead."""
        self._shop = shop
        self._fleet = fleet
        self._check_room = check_room
        self._nudged = asyncio.Event()
        self._one = asyncio.Lock()

    def nudge(self) -> None:
        """Has the next look made now."""
        self._nudged.set()

    async def due(self) -> None:
        """Waits until the repository is to be asked again."""
        delay_s = policy.poll_delay_s(self._shop.settings.poll_s, random.random())  # noqa: S311 - spreads a fleet
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._nudged.wait()
        self._nudged.clear()

    @property
    def anywhere(self) -> bool:
        """Whether there is a repository to look at."""
        return bool(self._shop.settings.repository or self.stick)

    async def forget_stick(self) -> None:
        """Goes back to the usual repository; where there is none, once the stick has been taken away.

        To be called while nothing of it is under way.
        """
        stick = self.stick
        if stick and (self._shop.settings.repository or not await asyncio.to_thread(_is_repository, stick)):
            self.stick = None if stick == self.stick else self.stick

    async def again(self) -> plan.Plan:
        """The plan of what was looked at last. Raises EdgedError."""
        async with self._one:
            return await self._bring(self.stick, follow=True)

    async def at(self, stick: Path | None, *, follow: bool) -> plan.Plan:
        """The plan on a stick, or of the usual repository; to `follow` from now on, or only to be told of.

        Raises EdgedError: what was followed before still is.
        """
        async with self._one:
            return await self._bring(stick, follow=follow)

    async def _bring(self, stick: Path | None, *, follow: bool) -> plan.Plan:
        shop = self._shop
        try:
            self._check_room()
            found, floors = await self._ask(stick)
        except EdgedError as error:
            self.last_look = f"{clock.wall():%Y-%m-%d %H:%M:%S} UTC: {error}"
            shop.events.record(Severity.WARNING, error.code, "repository", str(error))
            raise
        if follow:
            self.plan, self.stick = found, stick
        self.heard.raise_floors(floors)
        self.last_look = f"{clock.wall():%Y-%m-%d %H:%M:%S} UTC: the plan is up to date"
        await self.heard.keep(shop.ledger)
        return found

    async def _ask(self, stick: Path | None) -> tuple[plan.Plan, dict[str, int]]:
        """The plan, and each model's signed floor. Raises EdgedError, also where they do not come in time."""
        shop = self._shop
        try:
            async with asyncio.timeout(_LONGEST_S):
                return await shop.fetcher.bring_plan(
                    self.origin(stick), self._fleet, shop.state_folder / "plan", self.heard.take
                )
        except TimeoutError:
            text = f"the repository gave no plan within {_LONGEST_S:g} s"
            raise EdgedError(
                Code.DOWNLOAD_FAILED, text, "it is asked again later; see the link, and its server"
            ) from None

    def origin(self, stick: Path | None) -> Origin:
        """A repository as the fetcher is to ask it."""
        settings, folder = self._shop.settings, self._shop.state_folder
        return Origin(
            url=f"file://{stick}" if stick else settings.repository,
            root=Path(settings.root),
            metadata=folder / "metadata",
            rate_bytes=settings.rate_kib * 1024,
            budget_bytes=-1 if stick else self.heard.budget_bytes(settings.daily_mib),
            floors=self.heard.roles,
            ca=Path(settings.ca),
            build_time=self._shop.build_time,
        )


def _is_repository(folder: Path) -> bool:
    try:
        return (folder / "metadata").is_dir()
    except OSError:  # pulled out while it was read
        return False
