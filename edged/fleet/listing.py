"""Targets of a repository as they are listed and lie in it: read, added, changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Metadata, TargetFile

from edged import durable
from edged.bundle.folder import parse_manifest
from edged.bundle.manifest import MANIFEST_NAME, Manifest
from edged.errors import Code, EdgedError
from edged.fleet import roles
from edged.fleet.home import Home
from edged.fleet.signing import Signing
from edged.types import Operators
from edged.update import plan as plans
from edged.update.repository import OPERATORS_NAME, Floor


class Listing:
    """What is listed, with the changes of one edit on top."""

    def __init__(self, signing: Signing) -> None:
        self._signing = signing
        self._home: Home = signing.home
        self._models = signing.targets("models")
        self._roles: dict[str, Metadata[Any]] = {}
        self.changed: dict[str, Metadata[Any]] = {}
        """What is to be committed."""

    def role_of(self, path: str) -> str:
        """The role that lists a target of that path."""
        if path.startswith("models/"):
            return roles.bins_of(self._models).get_role_for_target(path)
        return "plans" if path.startswith("plans/") else "targets"

    def get(self, path: str) -> bytes | None:
        """A target's content; None where none is listed. Raises EdgedError where it is not as signed."""
        found = self._role(self.role_of(path)).signed.targets.get(path)
        if found is None:
            return None
        content = place(self._home, path, found.hashes["sha256"])
        try:
            raw = content.read_bytes()
            found.verify_length_and_hashes(raw)
        except (OSError, ValueError, Exception) as error:
            hint = "bring it back from a copy of the repository"
            raise EdgedError(Code.REPOSITORY_INVALID, f"{content}: is not as signed: {error}", hint) from error
        return raw

    def digest(self, path: str) -> str:
        """The SHA-256 of a target that is listed. Raises KeyError."""
        digest: str = self._role(self.role_of(path)).signed.targets[path].hashes["sha256"]
        return digest

    def put(self, path: str, content: bytes) -> bool:
        """Lists a target with that content and writes it; says whether that is a change."""
        role = self.role_of(path)
        metadata = self._role(role)
        digest = hashlib.sha256(content).hexdigest()
        known = metadata.signed.targets.get(path)
        at = place(self._home, path, digest)
        if not at.exists():
            at.parent.mkdir(parents=True, exist_ok=True)
            durable.write(at, content, mode=0o644)
        if known is not None and known.hashes.get("sha256") == digest:
            return False
        metadata.signed.targets[path] = TargetFile(len(content), {"sha256": digest}, path)
        self.changed[role] = metadata
        return True

    def _role(self, role: str) -> Metadata[Any]:
        if role not in self._roles:
            self._roles[role] = self._signing.targets(role)
        return self._roles[role]

    def manifest(self, model: str, revision: int) -> Manifest | None:
        """A published manifest; None where there is none."""
        raw = self.get(f"models/{model}/{revision}.json")
        return None if raw is None else parse_manifest(raw, self._home.targets / f"models/{model}/{MANIFEST_NAME}")

    def floor(self, model: str) -> int:
        """The lowest revision of a model that may still run; 0 where the model is not published."""
        raw = self.get(f"models/{model}/floor.json")
        return msgspec.json.decode(raw, type=Floor).min_revision if raw is not None else 0

    def plan(self) -> plans.Plan:
        """The plan as it is published."""
        name = self._home.settings.name
        raw = self.get(plan_path(name))
        return plans.Plan(fleet=name) if raw is None else plans.decode(raw, plan_path(name))

    def operators(self) -> Operators:
        """Who may command."""
        raw = self.get(OPERATORS_NAME)
        empty = Operators(fleet=self._home.settings.name)
        return empty if raw is None else msgspec.json.decode(raw, type=Operators)


def plan_path(fleet: str) -> str:
    """The target that holds a fleet's plan."""
    return f"plans/{fleet}.json"


def place(home: Home, path: str, digest: str) -> Path:
    """Where a target lies: its digest stands before its name (consistent snapshots)."""
    folder, slash, name = path.rpartition("/")
    return home.targets / f"{folder}{slash}{digest}.{name}"
