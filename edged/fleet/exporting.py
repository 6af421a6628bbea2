"""A part of a repository for a stick: some models, verifiable on its own, with an expiry for a drawer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
from tuf.api.metadata import Metadata, Root

from edged import durable
from edged.errors import Code, EdgedError
from edged.fleet.home import Home
from edged.fleet.listing import Listing, place, plan_path
from edged.fleet.signing import Signing, meta, packed
from edged.fleet.verifying import named_revisions
from edged.update import chunks
from edged.update.plan import Plan
from edged.update.repository import OPERATORS_NAME


class Exported(msgspec.Struct):
    """What is on the stick."""

    revisions: list[tuple[str, int]]
    bytes: int = 0


def export(home: Home, signing: Signing, to: Path, models: Sequence[str], valid: timedelta) -> Exported:
    """Writes what the plan has devices run of `models` (none named: of all) to the folder `to`.

    Its snapshot and timestamp are signed for `valid`, under versions of their own: the repository goes on above them,
    so that a device which has seen the stick does not take what comes online for older. Raises EdgedError.
    """
    if to.exists() and any(to.iterdir()):
        raise EdgedError(Code.REPOSITORY_INVALID, f"{to}: is not empty", "name a new or empty folder")
    listing = Listing(signing)
    plan = listing.plan()
    wanted = _wanted(plan, models)
    exported = Exported(sorted(wanted))
    _copy_metadata(home, signing, to, valid)
    _copy_target(home, listing, to, plan_path(home.settings.name), exported)
    _copy_target(home, listing, to, OPERATORS_NAME, exported)
    for model in sorted(plan.models):  # of each that the plan names: a device asks before it knows what is here
        _copy_target(home, listing, to, f"models/{model}/floor.json", exported)
    for model, revision in exported.revisions:
        manifest = listing.manifest(model, revision)
        if manifest is None:
            found = f"the plan names {model} revision {revision}, which is not published"
            raise EdgedError(Code.REPOSITORY_INVALID, found, "see `edgectl fleet verify`")
        _copy_target(home, listing, to, f"models/{model}/{revision}.json", exported)
        for digest in {chunk.sha256 for file in manifest.files for chunk in file.chunks}:
            _copy(home.repository, to, chunks.place(digest), exported)
    os.sync()  # who reads that it is done pulls the stick out
    return exported


def _wanted(plan: Plan, models: Sequence[str]) -> set[tuple[str, int]]:
    for model in models:
        if model not in plan.models:
            found = f"the plan says nothing of {model}"
            raise EdgedError(Code.INVALID_ARGUMENT, found, f"it has {', '.join(sorted(plan.models)) or 'no models'}")
    return {
        (model, revision)
        for model, classes in plan.models.items()
        if not models or model in models
        for terms in classes.values()
        for revision in named_revisions(terms)
    }


def _copy_metadata(home: Home, signing: Signing, to: Path, valid: timedelta) -> None:
    root: Metadata[Root] = signing.root()
    known = signing.load("snapshot")
    expires = signing.now + valid
    snapshot = signing.snapshot(known.signed.version + 1, dict(known.signed.meta), root, expires)
    of_snapshot = meta(snapshot.signed.version, packed(snapshot))
    timestamp = signing.timestamp(signing.version("timestamp") + 1, of_snapshot, root, expires)
    for version in range(1, root.signed.version + 1):
        _write(to / f"metadata/{version}.root.json", (home.metadata / f"{version}.root.json").read_bytes())
    for name, info in known.signed.meta.items():
        _write(to / f"metadata/{info.version}.{name}", (home.metadata / f"{info.version}.{name}").read_bytes())
    _write(to / f"metadata/{snapshot.signed.version}.snapshot.json", packed(snapshot))
    _write(to / "metadata/timestamp.json", packed(timestamp))
    signing.go_above(snapshot.signed.version, timestamp.signed.version)


def _copy_target(home: Home, listing: Listing, to: Path, path: str, exported: Exported) -> None:
    content = listing.get(path)
    if content is None:
        return
    at = place(home, path, listing.digest(path))
    _copy(home.repository, to, str(at.relative_to(home.repository)), exported)


def _copy(source: Path, to: Path, name: str, exported: Exported) -> None:
    if not (source / name).exists():
        found = f"{source / name}: is missing"
        raise EdgedError(Code.REPOSITORY_INVALID, found, "publish the bundle again")
    target = to / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / name, target)
    exported.bytes += target.stat().st_size


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write(path, content, mode=0o644)
