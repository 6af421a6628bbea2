"""Who may command the devices of a fleet: the signed `operators.json`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edged import schema
from edged.errors import Code, EdgedError
from edged.fleet.listing import Listing
from edged.fleet.signing import Signing, Waiting
from edged.types import Operator, Operators
from edged.update.repository import OPERATORS_NAME

COMMANDS = (
    "refresh",
    "report",
    "install",
    "rollback",
    "pin",
    "unpin",
    "hold",
    "release",
    "restart_model",
    "diagnostics",
    "set_log_level",
    "os_status",
    "os_upgrade",
    "os_switch",
    "os_rollback",
)
"""What an operator may be allowed."""


def add(signing: Signing, name: str, key: str, may: Sequence[str], classes: Sequence[str]) -> list[Waiting]:
    """Lets an operator command; `key` is the public key in hex. One of that name is replaced. Raises EdgedError."""
    listing = Listing(signing)
    known = listing.operators()
    others = [operator for operator in known.operators if operator.name != name]
    added = Operator(name=name, key=key, may=tuple(may), hardware_classes=tuple(classes))
    for misfit in schema.misfits(msgspec.to_builtins(added), Operator):
        raise EdgedError(Code.INVALID_ARGUMENT, f"{schema.dotted(misfit.key)}: {misfit.found}", misfit.remedy)
    return _put(signing, listing, known, [*others, added])


def remove(signing: Signing, name: str) -> list[Waiting]:
    """Lets an operator command no more. Raises EdgedError where there is none of that name."""
    listing = Listing(signing)
    known = listing.operators()
    others = [operator for operator in known.operators if operator.name != name]
    if len(others) == len(known.operators):
        names = ", ".join(operator.name for operator in known.operators) or "none"
        raise EdgedError(Code.INVALID_ARGUMENT, f"there is no operator {name}", f"there are: {names}")
    return _put(signing, listing, known, others)


def _put(signing: Signing, listing: Listing, known: Operators, operators: Sequence[Operator]) -> list[Waiting]:
    changed = msgspec.structs.replace(known, operators=tuple(sorted(operators, key=lambda each: each.name)))
    listing.put(OPERATORS_NAME, msgspec.json.encode(changed, order="sorted"))
    return signing.commit(listing.changed) if listing.changed else signing.install()
