"""Why a resident has no worker although it is loaded: nobody asks for it, or another is given its memory."""

from __future__ import annotations

import asyncio


class Rest:
    """One resident's. `told` is set when the resident is to look again."""

    def __init__(self, told: asyncio.Event) -> None:
        self.why = ""
        """Empty while it does not rest."""
        self.stands_by = False
        """A request does not end it, and waits: only who began it does."""
        self._told = told

    def __bool__(self) -> bool:
        return bool(self.why)

    @property
    def text(self) -> str:
        """What is told of it."""
        return f"{self.why}; {'requests wait' if self.stands_by else 'the next request brings it back'}"

    def begin(self, why: str, *, stands_by: bool = False) -> None:
        """It rests from now on, or for another reason."""
        self.why, self.stands_by = why, stands_by
        self._told.set()

    def end(self) -> None:
        """It rests no more."""
        self.why, self.stands_by = "", False
        self._told.set()

    async def over(self) -> None:
        """Waits until it does not rest."""
        while self:
            self._told.clear()
            await self._told.wait()
