"""Counts starts that ended in a crash, so that a daemon that cannot stay up still comes up reachable.

Counted only under a service manager that starts it again (systemd.exec(5), $INVOCATION_ID): whoever starts edged by
hand sees it end. The count lies in the runtime folder, which a boot empties.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from edged import durable

# After so many crashes in a row the next start serves administrators only.
LIMIT = 5

# Who stays up so long has not crashed at its start.
SETTLED_S = 60.0

# How long it serves administrators only before it tries to serve in full again.
RETRY_S = 600.0


def supervised(environment: Mapping[str, str]) -> bool:
    """Whether a service manager starts this process again when it ends."""
    return "INVOCATION_ID" in environment


class Starts:
    """The starts in a row that have not settled."""

    def __init__(self, path: Path) -> None:
        """`path`: where the count is kept. A count that cannot be kept is no reason not to serve."""
        self._path = path

    def begin(self) -> int:
        """Counts this start; gives how many before it, in a row, ended in a crash."""
        try:
            crashes = max(int(self._path.read_text(encoding="ascii")), 0)
        except (OSError, ValueError):
            crashes = 0
        self._keep(crashes + 1)
        return crashes

    def settle(self) -> None:
        """This start has stayed up, or ended as asked."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def retry(self) -> None:
        """Has the next start try in full; one more crash brings this state back."""
        self._keep(LIMIT - 1)

    def _keep(self, count: int) -> None:
        with contextlib.suppress(OSError):
            durable.write(self._path, b"%d" % count)
