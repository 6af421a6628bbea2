"""`edgectl fleet`: signatures renewed, keys replaced, a repository kept tidy."""

from __future__ import annotations

from pathlib import Path

import click

from edged.ctl import output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import Number
from edged.ctl.words import count, size
from edged.fleet import roles
from edged.fleet.opened import of_fleet, opened, passphrases, ring, tell_waiting, waiting_data, waits

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_ROLE = click.Choice(roles.KEYED)


@click.command
@common
@of_fleet
@click.pass_obj
def renew(asked: Asked, fleet: Path, passphrase_file: Path | None) -> None:
    """Sign snapshot and timestamp anew; a timer runs it.

    The snapshot only when half its time is over. Edits that have all their signatures are published. It needs the
    keys of snapshot and timestamp only. systemd/edged-fleet-renew.timer runs it every day.
    """
    from edged.fleet.rotating import renew as put

    with opened(fleet, passphrase_file) as signing:
        waiting = put(signing)
        expires = {role: signing.load(role).signed.expires for role in ("timestamp", "snapshot")}
    if asked.as_json:
        told = {role: at.isoformat() for role, at in expires.items()}
        output.document({"expires": told, "waiting": waiting_data(waiting)})
        return
    output.table(output.fields([(f"{role} until", f"{at:%Y-%m-%d %H:%M} UTC") for role, at in expires.items()]))
    tell_waiting(waiting)


@click.command
@common
@passphrases
@click.argument("pending", metavar="PENDING_DIR", type=_FOLDER)
@click.option("--keys", type=_FOLDER, required=True, metavar="DIR", help="The folder of the keys.")
@click.pass_obj
def sign(asked: Asked, pending: Path, keys: Path, passphrase_file: Path | None) -> None:
    """Sign what waits, where the offline keys are.

    Each file in PENDING_DIR is signed with every key in --keys that is named for its role. It needs neither network
    nor repository: carry the folder pending/ of a fleet there and back.
    """
    from edged.fleet.signing import read, role_of
    from edged.fleet.signing import sign as put

    signed = put(pending, ring(keys, passphrase_file))
    if asked.as_json:
        output.document({"signed": signed})
        return
    for path in signed:
        metadata = read(Path(path))
        output.line(f"signed {role_of(Path(path))} version {metadata.signed.version}: {path}")
    if not signed:
        output.line("nothing there waits for these keys")


@click.command("rotate-key")
@common
@of_fleet
@click.argument("role", type=_ROLE)
@click.option("--key", default="", metavar="ID", help="The key that goes, where the role has several.")
@click.pass_obj
def rotate_key(asked: Asked, fleet: Path, passphrase_file: Path | None, role: str, key: str) -> None:
    """Replace a key.

    What it signed is signed anew. Do it when a key may be known to others: once a device has seen it, nothing that
    the old key signs counts.
    """
    from edged.fleet.rotating import rotate

    with opened(fleet, passphrase_file) as signing:
        made, waiting = rotate(signing, role, key)
    if asked.as_json:
        output.document({"role": role, "key": made.keyid, "waiting": waiting_data(waiting)})
        return
    later = waits(waiting, role, roles.delegator(role))
    new = f"the new key {made.keyid[:16]}"
    output.line(f"{role} will have {new} once it is signed" if later else f"{role} has {new}")
    tell_waiting(waiting)


@click.command
@common
@of_fleet
@click.argument("role", type=_ROLE)
@click.option(
    "--days", type=Number(1, 3650, whole=True), required=True, metavar="N", help="How long a signature lasts."
)
@click.pass_obj
def expire(asked: Asked, fleet: Path, passphrase_file: Path | None, role: str, days: float) -> None:
    """How long a role's signatures last.

    It is signed anew, for so long; a snapshot with more than half of that to go is not.
    """
    from edged.fleet.rotating import expire as put

    with opened(fleet, passphrase_file) as signing:
        waiting = put(signing, role, int(days))
    if asked.as_json:
        output.document({"role": role, "days": int(days), "waiting": waiting_data(waiting)})
        return
    last, when = ("will last", "once it is signed") if waits(waiting, role) else ("last", "from now on")
    output.line(f"signatures of {role} {last} {count(int(days), 'day')} {when}")
    tell_waiting(waiting)


@click.command
@common
@of_fleet
@click.option("--dry-run", "dry", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc(asked: Asked, fleet: Path, passphrase_file: Path | None, *, dry: bool) -> None:
    """Remove what nothing refers to any more.

    That is chunks and files of the repository that no metadata names, and metadata long superseded.
    """
    from edged.fleet.collecting import collect

    with opened(fleet, passphrase_file) as signing:
        removed = collect(signing.home, signing, dry=dry)
    if asked.as_json:
        output.document({"files": removed.files, "bytes": removed.bytes, "removed": not dry})
        return
    output.line(f"{count(removed.files, 'file')}, {size(removed.bytes)}, {'would go' if dry else 'removed'}")
