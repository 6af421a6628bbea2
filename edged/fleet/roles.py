"""The roles of a repository: who delegates to whom, and what each starts as.

root → targets, snapshot, timestamp; targets → models, plans; models → 64 hash bins `models-00` to `models-3f`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    SuccinctRoles,
    Targets,
    Timestamp,
)

from edged.errors import Code, EdgedError

KEYED = ("root", "targets", "models", "plans", "snapshot", "timestamp")
"""The roles that have keys of their own; the bins are signed with those of models."""
OFFLINE = ("root", "targets")
ONLINE = ("snapshot", "timestamp")
TOP = ("root", "targets", "snapshot", "timestamp")

BITS = 6
"""64 bins: decision 25. One flat role would pass the size that clients read at some 40,000 revisions."""

PATHS = {"models": ["models/*/*.json"], "plans": ["plans/*.json"]}

Keys = Mapping[str, Sequence[SSlibKey]]
Thresholds = Mapping[str, int]


def keyed(role: str) -> str:
    """The role whose keys sign `role`."""
    return "models" if role.startswith("models-") else role


def delegator(role: str) -> str:
    """The role that says which keys sign `role`."""
    if role in TOP:
        return "root"
    return "models" if role.startswith("models-") else "targets"


def first(keys: Keys, thresholds: Thresholds, expires: Mapping[str, datetime], bits: int) -> dict[str, Metadata[Any]]:
    """The metadata of a new repository, unsigned: root, targets, models, plans and 2 ** bits bins, all version 1."""
    bins = by_bins(keys["models"], thresholds["models"], bits)
    root = Root(
        expires=expires["root"],
        keys={key.keyid: key for role in TOP for key in keys[role]},
        roles={role: Role([key.keyid for key in keys[role]], thresholds[role]) for role in TOP},
        consistent_snapshot=True,
    )
    made: dict[str, Metadata[Any]] = {
        "root": Metadata(root),
        "targets": Metadata(Targets(expires=expires["targets"], delegations=by_path(keys, thresholds))),
        "models": Metadata(Targets(expires=expires["models"], delegations=bins)),
        "plans": Metadata(Targets(expires=expires["plans"])),
    }
    for name in bins_of(made["models"]).get_roles():
        made[name] = Metadata(Targets(expires=expires["models"]))
    return made


def by_path(keys: Keys, thresholds: Thresholds) -> Delegations:
    """What targets delegates."""
    roles = {
        role: DelegatedRole(role, [key.keyid for key in keys[role]], thresholds[role], terminating=True, paths=paths)
        for role, paths in PATHS.items()
    }
    return Delegations({key.keyid: key for role in PATHS for key in keys[role]}, roles=roles)


def by_bins(keys: Sequence[SSlibKey], threshold: int, bits: int) -> Delegations:
    """What models delegates: the bins, named `models-00` and so on."""
    named = SuccinctRoles([key.keyid for key in keys], threshold, bits, "models")
    return Delegations({key.keyid: key for key in keys}, succinct_roles=named)


def bins_of(models: Metadata[Targets]) -> SuccinctRoles:
    """The bins that models delegates to. Raises EdgedError (repository_invalid) where it has none."""
    delegations = models.signed.delegations
    if delegations is None or delegations.succinct_roles is None:
        hint = "bring it back from a copy of the repository"
        raise EdgedError(Code.REPOSITORY_INVALID, "the role models delegates to no bins", hint)
    return delegations.succinct_roles


def snapshot(version: int, meta: dict[str, MetaFile], expires: datetime) -> Metadata[Snapshot]:
    """A snapshot, unsigned."""
    return Metadata(Snapshot(version=version, expires=expires, meta=meta))


def timestamp(
    version: int, of_snapshot: MetaFile, expires: datetime, issued_field: str, issued: datetime
) -> Metadata[Timestamp]:
    """A timestamp, unsigned, that says when it was issued."""
    told = {issued_field: issued.isoformat().replace("+00:00", "Z")}
    signed = Timestamp(version=version, expires=expires, snapshot_meta=of_snapshot, unrecognized_fields=told)
    return Metadata(signed)
