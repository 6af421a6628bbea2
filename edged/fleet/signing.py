"""Edits of a repository's metadata: each is signed with the keys at hand and installed once it has all signatures.

An edit is a folder `pending/<number>` of metadata files, each the next version of a role. Where keys are elsewhere it
waits there, is carried to where they are, signed, and carried back. Installing writes the roles, then a snapshot that
names them, then a timestamp: until the last of these a device sees the repository as it was.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edged import clock, durable
from edged.errors import Code, EdgedError
from edged.fleet import roles
from edged.fleet.home import Home
from edged.fleet.keys import Ring
from edged.update.trusted import ISSUED_FIELD

_COMPACT = JSONSerializer(compact=True)


class Waiting(msgspec.Struct, frozen=True):
    """A role of a pending edit that lacks signatures."""

    edit: str
    role: str
    has: int
    needs: int

    def __str__(self) -> str:
        return f"{self.role} (edit {self.edit}) has {self.has} of {self.needs} signatures"


class Signing:
    """The metadata of one fleet's repository, read and changed. Hold the home's lock meanwhile."""

    def __init__(self, home: Home, ring: Ring, now: datetime | None = None) -> None:
        self.home = home
        self.ring = ring
        self.now = (now or clock.wall()).replace(microsecond=0)

    def load(self, role: str) -> Metadata[Any]:
        """A role as it is published. Raises EdgedError (repository_invalid)."""
        return read(self._path(role, self.version(role)))

    def root(self) -> Metadata[Root]:
        """The newest root."""
        return self.load("root")

    def targets(self, role: str) -> Metadata[Targets]:
        """A role that lists targets."""
        return self.load(role)

    def version(self, role: str) -> int:
        """The version of a role that is published; 0 for none."""
        if role == "root":
            found = (path.name.split(".", 1)[0] for path in self.home.metadata.glob("*.root.json"))
            return max((int(name) for name in found if name.isdecimal()), default=0)
        if not (self.home.metadata / "timestamp.json").exists():
            return 0
        timestamp: Metadata[Timestamp] = read(self.home.metadata / "timestamp.json")
        if role == "timestamp":
            return timestamp.signed.version
        of_snapshot = timestamp.signed.snapshot_meta.version
        if role == "snapshot":
            return of_snapshot
        snapshot: Metadata[Snapshot] = read(self._path("snapshot", of_snapshot))
        found_meta = snapshot.signed.meta.get(f"{role}.json")
        return found_meta.version if found_meta else 0

    def expires(self, role: str) -> datetime:
        """When a signature made now ends."""
        days: int = getattr(self.home.settings.expiry_days, roles.keyed(role))
        return self.now + timedelta(days=days)

    def commit(self, changed: Mapping[str, Metadata[Any]]) -> list[Waiting]:
        """Makes an edit of roles, each without its new version and expiry, and installs it if that can be done now.

        Gives what is still waiting for signatures. Raises EdgedError where one of the roles waits in another edit, or
        a key that is at hand cannot be opened; then nothing was changed.
        """
        waiting = {role_of(path): path for path in self.home.pending.glob("[0-9]*/*.json")}
        for role in changed:
            if role in waiting:
                found = f"{role} waits for signatures in {waiting[role].parent}"
                raise EdgedError(Code.REPOSITORY_INVALID, found, "have it signed first, or remove that folder")
        for role, metadata in changed.items():
            metadata.signatures.clear()
            metadata.signed.version = self.version(role) + 1
            metadata.signed.expires = self.expires(role)
            _add_signatures(metadata, role, self.ring)
        if not any(self._lacking("", changed)):
            self._open_online(changed)
        self.ring.keep()
        numbers = [int(path.name) for path in self.home.pending.glob("*") if path.name.isdecimal()]
        passing = self.home.pending / ".passing"
        shutil.rmtree(passing, ignore_errors=True)
        passing.mkdir(parents=True)
        for role, metadata in changed.items():
            durable.write(passing / f"{metadata.signed.version}.{role}.json", packed(metadata), mode=0o644)
        durable.place(passing, self.home.pending / f"{max(numbers, default=0) + 1:04}")
        return self.install()

    def settle(self) -> list[Waiting]:
        """Ends what was begun before: an edit that a power cut left, or that came back with its signatures."""
        sign(self.home.pending, self.ring)
        return self.install()

    def install(self, *, renew: bool = False) -> list[Waiting]:
        """Publishes every edit that has its signatures, with a new snapshot and timestamp; gives what still waits.

        `renew`: a new timestamp in any case, and a new snapshot where half of its time is over.
        """
        waiting: list[Waiting] = []
        ready: dict[str, Metadata[Any]] = {}
        edits: list[Path] = []
        for edit in sorted(path for path in self.home.pending.glob("*") if path.name.isdecimal()):
            found = {role_of(path): read(path) for path in sorted(edit.glob("*.json"))}
            lacking = list(self._lacking(edit.name, found))
            waiting += lacking
            if not lacking:
                ready |= found
                edits.append(edit)
        if not ready and not renew:
            return waiting
        online = [*self._online_lacking(ready)]
        if online:
            return [*waiting, *online]
        self._publish(ready)
        for edit in edits:
            shutil.rmtree(edit)
        return waiting

    def _lacking(self, edit: str, found: Mapping[str, Metadata[Any]]) -> Iterable[Waiting]:
        for role, metadata in found.items():
            above = roles.delegator(role)
            delegators = [found[above]] if above in found else [self.load(above)]
            if role == "root":
                delegators = [metadata, *([self.load("root")] if self.version("root") else [])]
            for each in delegators:
                trusting: Any = each.signed
                result = trusting.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
                if not result.verified:
                    yield Waiting(edit, role, len(result.signed), result.threshold)
                    break

    def _online_lacking(self, ready: Mapping[str, Metadata[Any]]) -> Iterable[Waiting]:
        root: Metadata[Root] = ready.get("root") or self.root()
        for role in roles.ONLINE:
            named = root.signed.roles[role]
            here = sum(self.ring.has(role, keyid) for keyid in named.keyids)
            if here < named.threshold:
                yield Waiting("-", role, here, named.threshold)

    def _open_online(self, ready: Mapping[str, Metadata[Any]]) -> None:
        """Opens the keys that publishing will take. Raises EdgedError (key_unusable, not_permitted)."""
        root: Metadata[Root] = ready.get("root") or self.root()
        for role in roles.ONLINE:
            for keyid in root.signed.roles[role].keyids:
                if self.ring.has(role, keyid):
                    self.ring.signer(role, keyid)

    def _publish(self, ready: Mapping[str, Metadata[Any]]) -> None:
        root: Metadata[Root] = ready.get("root") or self.root()
        for role, metadata in ready.items():
            self._write(self._path(role, metadata.signed.version), packed(metadata))
        self._point_to(self._next_snapshot(ready, root), self.version("timestamp") + 1, root)

    def _point_to(self, snapshot: Metadata[Snapshot], version: int, root: Metadata[Root]) -> None:
        of_snapshot = meta(snapshot.signed.version, packed(snapshot))
        timestamp = self.timestamp(version, of_snapshot, root, self.expires("timestamp"))
        self._write(self.home.metadata / "timestamp.json", packed(timestamp))

    def go_above(self, of_snapshot: int, of_timestamp: int) -> None:
        """Publishes what is published under versions above these, which were given away."""
        root = self.root()
        listed = dict(self.load("snapshot").signed.meta)
        snapshot = self.snapshot(of_snapshot + 1, listed, root, self.expires("snapshot"))
        self._write(self._path("snapshot", of_snapshot + 1), packed(snapshot))
        self._point_to(snapshot, of_timestamp + 1, root)

    def _next_snapshot(self, ready: Mapping[str, Metadata[Any]], root: Metadata[Root]) -> Metadata[Snapshot]:
        known = self.load("snapshot") if self.version("snapshot") else None
        changed = {role: metadata for role, metadata in ready.items() if role != "root"}
        if known is not None and not changed and self._still_good(known, root):
            return known
        listed = dict(known.signed.meta) if known else {}
        for role, metadata in changed.items():
            listed[f"{role}.json"] = meta(metadata.signed.version, packed(metadata))
        version = known.signed.version + 1 if known else 1
        snapshot = self.snapshot(version, listed, root, self.expires("snapshot"))
        self._write(self._path("snapshot", version), packed(snapshot))
        return snapshot

    def _still_good(self, snapshot: Metadata[Snapshot], root: Metadata[Root]) -> bool:
        """Half of its time is left, and the keys of now have signed it."""
        try:
            root.signed.verify_delegate("snapshot", snapshot.signed_bytes, snapshot.signatures)
        except UnsignedMetadataError:
            return False
        period = self.expires("snapshot") - self.now
        return period / 2 < snapshot.signed.expires - self.now <= period

    def snapshot(
        self, version: int, listed: dict[str, MetaFile], root: Metadata[Root], expires: datetime
    ) -> Metadata[Snapshot]:
        """A signed snapshot."""
        return self._signed(roles.snapshot(version, listed, expires), "snapshot", root)

    def timestamp(
        self, version: int, of_snapshot: MetaFile, root: Metadata[Root], expires: datetime
    ) -> Metadata[Timestamp]:
        """A signed timestamp."""
        return self._signed(roles.timestamp(version, of_snapshot, expires, ISSUED_FIELD, self.now), "timestamp", root)

    def _signed(self, metadata: Metadata[Any], role: str, root: Metadata[Root]) -> Metadata[Any]:
        named = root.signed.roles[role]
        for keyid in named.keyids:
            if self.ring.has(role, keyid):
                metadata.sign(self.ring.signer(role, keyid), append=True)
        root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        return metadata

    def _path(self, role: str, version: int) -> Path:
        name = f"{role}.json" if role == "timestamp" else f"{version}.{role}.json"
        return self.home.metadata / name

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, content, mode=0o644)


def sign(pending: Path, ring: Ring) -> list[str]:
    """Signs what waits in `pending` with every key of `ring` that is named for its role; gives the files signed.

    It needs no repository: this is what runs where the offline keys are. Raises EdgedError.
    """
    signed = []
    for path in sorted(pending.glob("[0-9]*/*.json")):
        metadata = read(path)
        if _add_signatures(metadata, role_of(path), ring):
            durable.write(path, packed(metadata), mode=0o644)
            signed.append(str(path))
    return signed


def _add_signatures(metadata: Metadata[Any], role: str, ring: Ring) -> bool:
    """Signs with every key of `ring` that is named for the role and has not signed yet; whether there were any."""
    signers = ring.of_role(roles.keyed(role), but=metadata.signatures)
    for signer in signers:
        metadata.sign(signer, append=True)
    return bool(signers)


def read(path: Path) -> Metadata[Any]:
    """A metadata file. Raises EdgedError (repository_invalid)."""
    try:
        return Metadata.from_bytes(path.read_bytes())
    except (OSError, DeserializationError) as error:
        found = f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'is no metadata'}"
        raise EdgedError(Code.REPOSITORY_INVALID, found, "bring it back from a copy of the repository") from error


def role_of(path: Path) -> str:
    """The role whose metadata a file is: `plans` for `7.plans.json`."""
    return path.name.removesuffix(".json").rpartition(".")[2]


def packed(metadata: Metadata[Any]) -> bytes:
    """Metadata as it is written."""
    return metadata.to_bytes(_COMPACT)


def meta(version: int, content: bytes) -> MetaFile:
    """What a snapshot or timestamp says of a file: its version, and with it all that there is to know of it."""
    return MetaFile(version, len(content), {"sha256": hashlib.sha256(content).hexdigest()})
