"""How often a revision's workers ended unasked, or did not come up."""

from __future__ import annotations

from edged.errors import Code, EdgedError
from edged.models import restarts


class Deaths:
    """Those of one resident."""

    def __init__(self) -> None:
        self.crashes = 0
        """Workers that ended unasked, also while they loaded, and by no fault of another's; not those that hung."""
        self.hangs = 0
        """Workers that had to be ended since they did not answer; one that does not load in time has crashed."""
        self.in_a_row = 0
        """With no answer between; also where there was no worker, since the device could not start one."""

    def add(self, verdict: EdgedError | None) -> None:
        """One that was up ended unasked; `verdict`: what is known of why."""
        self.in_a_row += 1
        if verdict is not None and verdict.code is Code.WORKER_HANG:
            self.hangs += 1
        else:
            self.crashes += 1

    def add_loading(self, error: EdgedError | OSError) -> None:
        """One did not come up, for what may pass."""
        self.in_a_row += 1
        self.crashes += restarts.is_end(error)

    def forgive(self) -> None:
        """What died before is no row of deaths any more."""
        self.in_a_row = 0
