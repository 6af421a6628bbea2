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

    def know(self, resident: Resident) -> None:
        """Takes in a revision that is on the device, without loading it."""
        self._residents[resident.name, resident.revision] = resident
        route = self.routes.get(resident.name)
        self._set_route(resident.name, route.serving if route else resident.revision)

    def add(self, resident: Resident) -> None:
        """Takes a resident in and starts it; the highest revision of a model becomes the one that serves."""
        self._residents[resident.name, resident.revision] = resident
        resident.start()
        self._set_route(resident.name, max(each.revision for each in self.all() if each.name == resident.name))

    def serve(self, resident: Resident) -> None:
        """Has a resident answer for its model from now on, where no revision is named."""
        self._set_route(resident.name, resident.revision)
        self.changes.mark()

    def refresh(self, model: str) -> None:
        """Takes into the route which revisions of a model are loaded by now."""
        self._set_route(model, self.routes[model].serving)
        self.changes.mark()

    def _set_route(self, model: str, serving: int) -> None:
        found = [resident for resident in self.known() if resident.name == model]
        loaded = tuple(each.revision for each in found if each.revision == serving or each.loaded)
        self.routes[model] = Route(serving=serving, loaded=loaded, known=tuple(each.revision for each in found))

    def get(self, model: str, revision: int) -> Resident:
        """The resident of a resolved route. Raises KeyError."""
        return self._residents[model, revision]

    def serving(self) -> list[Resident]:
        """The residents that should answer when no revision is named, by model name."""
        residents = [self._residents[name, route.serving] for name, route in sorted(self.routes.items())]
        return [resident for resident in residents if not resident.leaving]

    def all(self) -> list[Resident]:
        """Every resident that is or was loaded, by model name and revision."""
        return [resident for resident in self.known() if resident.begun]

    def known(self) -> list[Resident]:
        """Every revision that is on the device, by model name and revision."""
        return [self._residents[key] for key in sorted(self._residents)]

    async def stop(self) -> None:
        """Ends all workers, at the same time."""
        await asyncio.gather(*(resident.stop() for resident in self._residents.values()))
