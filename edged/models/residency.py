"""What is loaded: all residents, and the routes that follow from them."""

from __future__ import annotations

import asyncio

from edged.changes import Changes
from edged.models.resident import Resident
from edged.models.routes import Route


class Residency:
    """All residents, and the routes that follow from them."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self._residents: dict[tuple[str, int], Resident] = {}
        self.routes: dict[str, Route] = {}

    def add(self, resident: Resident) -> None:
        """Takes a resident in and starts it; the highest revision of a model becomes the one that serves."""
        self._residents[resident.name, resident.revision] = resident
        revisions = tuple(sorted(revision for name, revision in self._residents if name == resident.name))
        self.routes[resident.name] = Route(serving=revisions[-1], loaded=revisions, known=revisions)
        resident.start()

    def get(self, model: str, revision: int) -> Resident:
        """The resident of a resolved route. Raises KeyError."""
        return self._residents[model, revision]

    def serving(self) -> list[Resident]:
        """The residents that answer when no revision is named, by model name."""
        return [self._residents[name, route.serving] for name, route in sorted(self.routes.items())]

    def all(self) -> list[Resident]:
        """Every resident, by model name and revision."""
        return [self._residents[key] for key in sorted(self._residents)]

    async def stop(self) -> None:
        """Ends all workers, at the same time."""
        await asyncio.gather(*(resident.stop() for resident in self._residents.values()))
