"""Keys replaced, periods changed and begun anew: the roles that must be signed anew for it."""

from __future__ import annotations

from typing import Any

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Targets

from edged.errors import Code, EdgedError
from edged.fleet import roles
from edged.fleet.home import expiring, write_settings
from edged.fleet.signing import Signing, Waiting


def rotate(signing: Signing, role: str, old: str) -> tuple[SSlibKey, list[Waiting]]:
    """Makes a new key for a role in place of the one whose id begins with `old`; empty: of its only one.

    Gives the new key, and what waits for the signatures of keys that are elsewhere. Raises EdgedError.
    """
    above = roles.delegator(role)
    delegating = signing.load(above)
    retired = _retired(delegating, role, old)
    key = signing.ring.make(role)
    delegating.signed.revoke_key(retired, role)
    delegating.signed.add_key(key, role)
    changed: dict[str, Metadata[Any]] = {above: delegating}
    if role not in (*roles.ONLINE, above):
        changed[role] = signing.load(role)
    if role == "models":
        named = delegating.signed.delegations.roles["models"]
        keys = [delegating.signed.delegations.keys[keyid] for keyid in named.keyids]
        models = changed["models"]
        bits = roles.bins_of(models).bit_length
        models.signed.delegations = roles.by_bins(keys, named.threshold, bits)
        changed |= _bins(signing, models)
    return key, signing.commit(changed)


def _retired(delegating: Metadata[Any], role: str, old: str) -> str:
    keyids: list[str] = delegating.signed.get_delegated_role(role).keyids
    found = [keyid for keyid in keyids if keyid.startswith(old)]
    if len(found) != 1:
        said = f"{role} has {len(keyids)} keys: {', '.join(keyid[:16] for keyid in keyids)}"
        raise EdgedError(Code.INVALID_ARGUMENT, said, "name with --key the one that is to go")
    return found[0]


def _bins(signing: Signing, models: Metadata[Targets]) -> dict[str, Metadata[Any]]:
    return {name: signing.load(name) for name in roles.bins_of(models).get_roles()}


def renew(signing: Signing) -> list[Waiting]:
    """Has snapshot and timestamp last anew, and publishes what has its signatures; gives what still waits for some.

    Raises EdgedError, with nothing changed; key_unusable where the online keys are elsewhere.
    """
    waiting = signing.install(renew=True)
    if away := [each.role for each in waiting if each.role in roles.ONLINE]:
        found = f"nothing is changed: {' and '.join(away)} must be signed by keys elsewhere"
        raise EdgedError(Code.KEY_UNUSABLE, found, "run it where they are")
    return waiting


def expire(signing: Signing, role: str, days: int) -> list[Waiting]:
    """Has signatures of a role last `days` from now on, and signs it anew.

    Raises EdgedError, with nothing changed; key_unusable for an online role where the online keys are elsewhere.
    """
    home = signing.home
    home.settings = expiring(home.settings, role, days)
    if role in roles.ONLINE:
        waiting = renew(signing)
    else:
        changed = {role: signing.load(role)}
        if role == "models":
            changed |= _bins(signing, changed["models"])
        waiting = signing.commit(changed)
    write_settings(home.folder, home.settings)  # last: where signing failed, nothing has changed
    return waiting
