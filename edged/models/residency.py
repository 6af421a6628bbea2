"""What is loaded: all residents, and the routes to them."""

from __future__ import annotations

import asyncio

from edged.changes import Changes
from edged.models.resident import Resident
from edged.models.routes import Route


class Residency:
    """All residents, and the routes to them. A route changes at once; what was queued elsewhere is answered there."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self._residents: dict[tuple[str, int], Resident] = {}
        self.routes: dict[str, Route] = {}

    def add(self, resident: Resident) -> None:
        """Takes a resident in and starts it; the first of a model, or one of a higher revision, serves."""
        route = self.routes.get(resident.name)
        self.add_on_trial(resident)
        if route is None or resident.revision > route.serving:
            self._serve(resident.name, resident.revision, fallback=0)
        else:
            self._set(resident.name, route.serving, (*route.loaded, resident.revision), route.fallback)

    def add_on_trial(self, resident: Resident) -> None:
        """Takes a resident in and starts it; no request reaches it."""
        self._residents[resident.name, resident.revision] = resident
        resident.start()

    def flip(self, model: str, revision: int, *, keep: bool) -> None:
        """Routes what comes from now on to `revision`; with `keep`, the one before answers where this one fails."""
        before = self.routes.get(model)
        self._serve(model, revision, fallback=before.serving if keep and before and before.serving != revision else 0)

    def settle(self, model: str) -> None:
        """The serving revision stands alone from now on."""
        route = self.routes[model]
        self._set(model, route.serving, route.loaded, 0)

    def withdraw(self, model: str, revision: int) -> Resident | None:
        """Takes a revision that does not serve off the route, and gives its resident; whoever names it is told."""
        route = self.routes.get(model)
        if route is not None:
            fallback = 0 if route.fallback == revision else route.fallback
            self._set(model, route.serving, tuple(each for each in route.loaded if each != revision), fallback)
        return self._residents.get((model, revision))

    async def end(self, resident: Resident) -> None:
        """Ends a resident that was withdrawn, and forgets it."""
        await resident.stop()
        if self._residents.get((resident.name, resident.revision)) is resident:
            del self._residents[resident.name, resident.revision]
            self.changes.mark()

    def get(self, model: str, revision: int) -> Resident:
        """The resident of a resolved route. Raises KeyError."""
        return self._residents[model, revision]

    def find(self, model: str, revision: int) -> Resident | None:
        """A resident, whether it is routed to or not; None where there is none."""
        return self._residents.get((model, revision))

    def serving(self) -> list[Resident]:
        """The residents that answer when no revision is named, by model name."""
        return [self._residents[name, route.serving] for name, route in sorted(self.routes.items())]

    def all(self) -> list[Resident]:
        """Every resident, by model name and revision."""
        return [self._residents[key] for key in sorted(self._residents)]

    async def stop(self) -> None:
        """Ends all workers, at the same time."""
        await asyncio.gather(*(resident.stop() for resident in self._residents.values()))

    def _serve(self, model: str, revision: int, fallback: int) -> None:
        route = self.routes.get(model)
        loaded = (*(route.loaded if route else ()), revision)
        self._set(model, revision, loaded, fallback)

    def _set(self, model: str, serving: int, loaded: tuple[int, ...], fallback: int) -> None:
        route = self.routes.get(model)
        known = {*(route.known if route else ()), *loaded}
        self.routes[model] = Route(
            serving=serving, loaded=tuple(sorted(set(loaded))), known=tuple(sorted(known)), fallback=fallback
        )
        self.changes.mark()
