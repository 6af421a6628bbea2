"""A fleet of a test's own: real keys, a real repository, published to without asking whether a bundle is good."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import msgspec

from edged.bundle.manifest import encode
from edged.fleet import planning
from edged.fleet.home import Home
from edged.fleet.keys import Ring
from edged.fleet.listing import Listing
from edged.fleet.publishing import publish
from edged.fleet.signing import Signing
from edged.fleet.starting import ROOT_NAME, start
from support.quick_disk import no_syncs

NAME = "test"
PASSPHRASE = "only for tests"


class Fleet:
    """Publishes; `repository` is what devices fetch from."""

    def __init__(self, folder: Path) -> None:
        """Makes one in `folder`, or takes the one that is there."""
        self._ring = Ring(folder / "keys", [PASSPHRASE], None)
        with no_syncs():
            self.home = Home(folder) if folder.exists() else start(folder, NAME, self._ring, {})
        self.repository = self.home.repository
        self.root = folder / ROOT_NAME

    def publish(self, *bundles: Path) -> None:
        """Publishes packed bundles."""
        with no_syncs():
            for bundle in bundles:
                publish(self.home, self._signing(), bundle)

    def plan(self, model: str, revision: int, hardware_class: str = "generic", **terms: object) -> None:
        """Has a class run a revision."""
        signing = self._signing()
        listing = Listing(signing)
        plan = planning.settled(listing.plan(), model, hardware_class, revision)
        if terms:
            changed = msgspec.structs.replace(planning.terms_of(plan, model, hardware_class), **terms)
            plan = planning.with_terms(plan, model, hardware_class, changed)
        with no_syncs():
            planning.put(signing, listing, plan)

    def lie(self, model: str, revision: int, path: str) -> None:
        """Signs a published manifest anew with another digest for one of its files."""
        signing = self._signing()
        listing = Listing(signing)
        manifest = listing.manifest(model, revision)
        assert manifest is not None
        files = [
            msgspec.structs.replace(file, sha256="0" * 64) if file.path == path else file for file in manifest.files
        ]
        listing.put(f"models/{model}/{revision}.json", encode(msgspec.structs.replace(manifest, files=tuple(files))))
        signing.commit(listing.changed)

    def renew(self, now: datetime) -> None:
        """Signs the timestamp anew, at a time."""
        Signing(self.home, self._ring, now).install(renew=True)

    def _signing(self) -> Signing:
        return Signing(self.home, self._ring)

    def trusted_by(self, root: Path) -> str:
        """Puts the root of trust into the image of a daemon below `root`; gives the settings that follow the fleet."""
        target = root / "usr/share/edged/trust/root.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.root, target)
        update = f'repository = "file://{self.repository}"\npoll_s = 3600\nreserve_mib = 0\n'
        return f'[device]\nfleet = "{NAME}"\n[update]\n{update}'
