"""What is loaded: all residents, and the routes to them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from edged.changes import Changes
from edged.models.resident import Resident
from edged.models.routes import Route


class Residency:
    """All residents, and the routes to them. A route changes at once; what was queued elsewhere is answered there."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self._residents: dict[tuple[str, int], Resident] = {}
        self._aside: set[tuple[str, int]] = set()
        """Those that are on trial or withdrawn: they may be loaded, and are not routed to."""
        self._on_trial: set[tuple[str, int]] = set()
        """Those of them that have never been routed to."""
        self.routes: dict[str, Route] = {}
        self.failed: Mapping[str, str] = {}
        """The accelerators that have failed, and why, by kind."""
        self.gone: Collection[str] = ()
        """Those of them that are not there any more, as far as anybody can tell."""

    def avoid(self, failed: Mapping[str, str], gone: Collection[str] = ()) -> None:
        """Has all models, and those that come, avoid what runs on these accelerators. Each call holds alone."""
        self.failed, self.gone = dict(failed), tuple(gone)
        for resident in self.known():
            self._keep_off(resident)
        self.changes.mark()

    def know(self, resident: Resident) -> None:
        """Takes in a revision that is on the device, without loading it; one that is known already stays."""
        if (resident.name, resident.revision) not in self._residents:
            self._take_in(resident)
        if route := self.routes.get(resident.name):
            self._route(resident.name, route.serving, route.fallback)
        else:
            self._route(resident.name, resident.revision)

    def forget(self, resident: Resident) -> None:
        """It is not on the device any more; one that was ever loaded stays."""
        if not resident.begun:
            self._residents.pop((resident.name, resident.revision), None)

    def add(self, resident: Resident) -> None:
        """Takes a resident in and starts it; the first of a model, or one of a higher revision, serves."""
        self._take_in(resident)
        resident.start()
        route = self.routes.get(resident.name)
        if route is None or resident.revision > route.serving:
            self._route(resident.name, resident.revision)
        else:
            self._route(resident.name, route.serving, route.fallback)

    def add_on_trial(self, resident: Resident, *, stands_by: str = "") -> None:
        """Takes a resident in and starts it, or with a reason has it stand by; no request reaches it."""
        self._take_in(resident)
        self._aside.add((resident.name, resident.revision))
        self._on_trial.add((resident.name, resident.revision))
        if stands_by:
            resident.start_standing_by(stands_by)
        else:
            resident.start()

    def flip(self, model: str, revision: int, *, keep: bool = False) -> None:
        """Routes what comes from now on to `revision`; with `keep`, the one before answers where this one fails."""
        before = self.routes.get(model)
        self._aside.discard((model, revision))
        self._on_trial.discard((model, revision))
        self._route(model, revision, before.serving if keep and before and before.serving != revision else 0)

    def settle(self, model: str) -> None:
        """The serving revision stands alone from now on."""
        self._route(model, self.routes[model].serving)

    def refresh(self, model: str) -> None:
        """Takes into the route which revisions of a model are loaded by now."""
        route = self.routes[model]
        self._route(model, route.serving, route.fallback)

    def withdraw(self, model: str, revision: int) -> Resident | None:
        """Takes a revision off the route and gives its resident; whoever names it is told. None where it serves."""
        route = self.routes.get(model)
        if route is not None and route.serving == revision:
            return None
        self._aside.add((model, revision))
        if route is not None:
            self._route(model, route.serving, 0 if route.fallback == revision else route.fallback)
        return self.find(model, revision)

    async def end(self, resident: Resident) -> bool:
        """Ends a resident that was withdrawn, and forgets it; False where somebody loads it again meanwhile."""
        if not await resident.stop():
            return False
        key = (resident.name, resident.revision)
        if self._residents.get(key) is resident:
            del self._residents[key]
            self._aside.discard(key)
            self._on_trial.discard(key)
            self.changes.mark()
        return True

    def on_trial(self, resident: Resident) -> bool:
        """Whether it was taken in on trial and no request has been routed to it since."""
        return (resident.name, resident.revision) in self._on_trial

    def get(self, model: str, revision: int) -> Resident:
        """The resident of a resolved route. Raises KeyError."""
        return self._residents[model, revision]

    def find(self, model: str, revision: int) -> Resident | None:
        """A resident that is or was loaded, whether it is routed to or not; None where there is none."""
        found = self._residents.get((model, revision))
        return found if found is not None and found.begun else None

    def serving(self) -> list[Resident]:
        """The residents that should answer when no revision is named, by model name."""
        found = [self._residents.get((name, route.serving)) for name, route in sorted(self.routes.items())]
        return [resident for resident in found if resident is not None and not resident.leaving]

    def all(self) -> list[Resident]:
        """Every resident that is or was loaded, by model name and revision."""
        return [resident for resident in self.known() if resident.begun]

    def known(self) -> list[Resident]:
        """Every revision that is on the device, by model name and revision."""
        return [self._residents[key] for key in sorted(self._residents)]

    def routed(self) -> list[Resident]:
        """Every revision on the device that is neither on trial nor withdrawn, by model name and revision."""
        return [each for each in self.known() if (each.name, each.revision) not in self._aside]

    async def stop(self) -> None:
        """Ends all workers, at the same time."""
        await asyncio.gather(*(resident.stop("the daemon stops") for resident in self._residents.values()))

    def _take_in(self, resident: Resident) -> None:
        """Before it starts: an accelerator that has failed may hang whoever opens it."""
        self._residents[resident.name, resident.revision] = resident
        if self.failed:
            self._keep_off(resident)

    def _keep_off(self, resident: Resident) -> None:
        needs = ((each.name, each.requires.accelerator) for each in resident.manifest.variants)
        resident.choice.avoid({name: self.failed[kind] for name, kind in needs if kind in self.failed})

    def _route(self, model: str, serving: int, fallback: int = 0) -> None:
        """Sets a model's route: what is loaded may be named, but for what stands aside."""
        before = self.routes.get(model)
        found = [each for each in self.known() if each.name == model and (model, each.revision) not in self._aside]
        loaded = {each.revision for each in found if each.revision == serving or each.loaded}
        known = {*(before.known if before else ()), *(each.revision for each in found), serving}
        self.routes[model] = Route(serving, tuple(sorted(loaded)), tuple(sorted(known)), fallback)
        self.changes.mark()
