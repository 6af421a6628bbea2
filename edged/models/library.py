"""Where bundles are: in the store, or in the image. It reads the disk: call it from a thread."""

from __future__ import annotations

from collections.abc import Sequence

from edged.bundle.factory import Found
from edged.bundle.manifest import digest
from edged.errors import EdgedError
from edged.models.states import Source
from edged.models.store import Store

FACTORY = "factory"
STORE = "store"


class Library:
    """All bundles of this device, by model and revision."""

    def __init__(self, store: Store, factory: Sequence[Found]) -> None:
        self.store = store
        self._factory: dict[tuple[str, int], Source] = {}
        for found in factory:
            if found.manifest is not None:
                key = (found.manifest.name, found.manifest.revision)
                self._factory[key] = Source(found.folder, found.manifest, FACTORY)

    def models(self) -> list[str]:
        """The models that the image brought."""
        return sorted({model for model, _ in self._factory})

    def factory(self, model: str) -> list[Source]:
        """A model's bundles that the image brought, the newest first."""
        found = [source for (name, _), source in self._factory.items() if name == model]
        return sorted(found, key=lambda source: -source.manifest.revision)

    def find(self, model: str, revision: int, wanted: str = "") -> Source | None:
        """The bundle of a revision, and with `wanted` only the one whose manifest has this digest; None: not here."""
        try:
            manifest = self.store.manifest(model, revision)
        except (EdgedError, OSError):
            source = self._factory.get((model, revision))
        else:
            source = Source(self.store.path(model, revision), manifest, STORE)
        if source is not None and wanted and digest(source.manifest) != wanted:
            return None
        return source
