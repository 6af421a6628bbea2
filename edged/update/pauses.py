"""Which phases of an update rest while the device is under pressure. Pure."""

from __future__ import annotations

import msgspec

from edged.types import Limits
from edged.update.machine import WORK, Phase

_PRESSED = "the device is under pressure"
SCARCE = "the disk of the state folder is nearly full"
STANDS_IN = "the journal cannot be written, so an update would be forgotten: mend that, and restart edged"
_FULL = "what is left on the disk of the state folder is kept for the journal"

BEFORE_THE_SOAK = frozenset(WORK) - {Phase.SOAKING}
"""These rest where nothing can be kept; what serves already is judged all the same."""

# These fill the disk. What has been taken in is tried and judged all the same: its commit is what frees space.
_FILLING = (Phase.FETCHING, Phase.STAGED)


class Pauses(msgspec.Struct, frozen=True):
    """Why, in words; empty: nothing rests for that."""

    everything: str = ""
    filling: str = ""
    full: str = ""
    """Nothing at all may be written."""

    def of(self, phase: Phase) -> str:
        """Why nothing is done in `phase`; nothing when it is."""
        if phase not in WORK:
            return ""
        return (self.filling if phase in _FILLING else "") or self.everything


def read(limits: Limits) -> Pauses:
    """What limits ask for."""
    full = _FULL if limits.journal_only else ""
    return Pauses(
        everything=_PRESSED if limits.background_paused else "",
        filling=full or (SCARCE if limits.save_space else ""),
        full=full,
    )
