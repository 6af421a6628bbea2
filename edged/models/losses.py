"""The workers of one model revision that could not be ended."""

from __future__ import annotations

from edged.bundle.manifest import Variant
from edged.changes import Changes
from edged.models.states import Lost
from edged.worker.process import LostError, Worker


class Losses(list[Lost]):
    """Those that are still there."""

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self._changes = changes

    def keep(self, variant: Variant, error: Exception) -> None:
        """One more, where it was lost as it was loaded."""
        if isinstance(error, LostError):
            self.add(variant, error.worker)

    def add(self, variant: Variant, worker: Worker) -> None:
        """One more, until it goes after all."""
        lost = Lost(variant, worker)
        self.append(lost)

        def gone(_: object) -> None:
            self.remove(lost)
            self._changes.mark()

        worker.gone.add_done_callback(gone)
