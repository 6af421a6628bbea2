"""A model's want of memory or of a device: who stands in for a variant meanwhile, and when it is asked for again."""

from __future__ import annotations

import asyncio

from edged.bundle.manifest import Variant
from edged.config.settings import Workers
from edged.errors import EdgedError
from edged.models import restarts
from edged.models.choosing import Choice


class Want:
    """One for a resident."""

    def __init__(self, choice: Choice) -> None:
        self.refusals = 0
        """In a row."""
        self._choice = choice
        self._timer: asyncio.TimerHandle | None = None

    def met(self, settings: Workers) -> None:
        """Something runs: the best variant, or another that is to make way for it when it can be had."""
        if self._choice.is_short:
            self.ask_again_later(settings)
        else:
            self.refusals = 0

    def spared(self, variant: Variant, why: EdgedError) -> bool:
        """Whether another variant may be tried instead of one that was refused."""
        found = self._choice.spare(variant, why)
        self.refusals = max(self.refusals, int(found))
        return found

    def wait_s(self, settings: Workers) -> float:
        """How long to wait after one more refusal: a longer while each time."""
        self.refusals += 1
        return restarts.delay_s(self.refusals + 1, settings.restart_min_s, settings.restart_max_s)

    def ask_again_later(self, settings: Workers) -> None:
        """Has the variants that were refused be asked for after a while."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self.wait_s(settings), self._choice.ask_again)
