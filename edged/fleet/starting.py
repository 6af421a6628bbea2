"""A new fleet: its keys, its roles, an empty plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edged import durable
from edged.fleet import making, roles
from edged.fleet.home import Expiry, FleetSettings, Home
from edged.fleet.keys import Ring
from edged.fleet.listing import Listing, plan_path
from edged.fleet.signing import Signing
from edged.update import plan as plans

ROOT_NAME = "root.json"
"""The root of trust, to go into the image of every device."""


def start(folder: Path, name: str, ring: Ring, shares: Mapping[str, tuple[int, int]], bits: int = roles.BITS) -> Home:
    """Makes the folder, keys and repository of a fleet, or nothing. Raises EdgedError.

    `shares`: by role how many signatures it needs, and of how many keys; one of one where it is not named. `bits`:
    manifests are listed in 2 ** bits bins.
    """
    with making.making(folder, FleetSettings(name=name, expiry_days=Expiry())) as home:
        keys = {role: [ring.make(role) for _ in range(shares.get(role, (1, 1))[1])] for role in roles.KEYED}
        thresholds = {role: shares.get(role, (1, 1))[0] for role in roles.KEYED}
        signing = Signing(home, ring)
        expires = {role: signing.expires(role) for role in roles.KEYED}
        signing.commit(roles.first(keys, thresholds, expires, bits))
        listing = Listing(signing)
        listing.put(plan_path(name), plans.encode(plans.Plan(fleet=name)))
        signing.commit(listing.changed)
        root = (home.metadata / f"1.{ROOT_NAME}").read_bytes()
        durable.write(home.folder / ROOT_NAME, root, mode=0o644)
    return home
