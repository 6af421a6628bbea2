"""Tries again later what the broker would not have: once at a time, and ever more rarely."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LEAST_S = 60.0
MOST_S = 3600.0


class Again:
    """One timer, whose delay doubles until `reset`."""

    def __init__(self, call: Callable[[], None]) -> None:
        """`call` is called when the time has come."""
        self._call = call
        self._delay_s = LEAST_S
        self._timer: asyncio.TimerHandle | None = None

    def later(self) -> None:
        """Calls when the delay is over; where that is due already, nothing changes."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._due)
            self._delay_s = min(self._delay_s * 2, MOST_S)

    def reset(self) -> None:
        """Nothing is to be tried again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._delay_s = LEAST_S

    def _due(self) -> None:
        self._timer = None
        self._call()
