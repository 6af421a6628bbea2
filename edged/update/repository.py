"""What a device asks of a repository, by name: the plan, the floor of a model, a manifest, a chunk.

    metadata/    The Update Framework's files
    targets/     plans/<fleet>.json, models/<name>/<revision>.json, models/<name>/floor.json, operators.json
    chunks/      what the files of bundles are made of

Plain files: a static web server, an object store or a stick holds them.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from tuf.api.exceptions import DownloadError, DownloadHTTPError

from edged.bundle.folder import parse_manifest
from edged.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, Revision
from edged.errors import Code, EdgedError
from edged.types import ModelName
from edged.update import chunks
from edged.update.plan import MAX_PLAN_BYTES, Plan, decode
from edged.update.transport import Transport
from edged.update.trusted import Trusted

# A chunk is asked for so often before the whole is given up for now, with so long a pause before each further time.
_PAUSES_S = (0.5, 2.0)

_MAX_SMALL_BYTES = 64 * 1024
MAX_OPERATORS_BYTES = 1024 * 1024

OPERATORS_NAME = "operators.json"


class Floor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lowest revision of a model that may still run; signed as the model's manifests are."""

    model: ModelName
    min_revision: Revision


class Repository:
    """A repository whose metadata is up to date. All that it gives is verified."""

    def __init__(self, url: str, trusted: Trusted, transport: Transport) -> None:
        """`trusted` has been refreshed."""
        self._url = url.rstrip("/")
        self._trusted = trusted
        self._transport = transport

    def plan(self, fleet: str) -> Plan:
        """The plan of a fleet. Raises EdgedError: plan_invalid also where there is none of that name."""
        name = f"plans/{fleet}.json"
        raw = self._kept(name, MAX_PLAN_BYTES)
        if raw is None:
            raise EdgedError(Code.PLAN_INVALID, f"{name}: is not published", "is it the name of this fleet?")
        plan = decode(raw, name)
        if plan.fleet != fleet:
            raise EdgedError(Code.PLAN_INVALID, f"{name}: is the plan of {plan.fleet}", "publish it under its own name")
        return plan

    def min_revision(self, model: str) -> int:
        """The floor of a model; 1 where none is published. Raises EdgedError."""
        name = f"models/{model}/floor.json"
        raw = self._kept(name, _MAX_SMALL_BYTES)
        if raw is None:
            return 1
        try:
            floor = msgspec.json.decode(raw, type=Floor)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EdgedError(Code.REPOSITORY_INVALID, f"{name}: {error}", "publish the model anew") from error
        if floor.model != model:
            found = f"{name}: is the floor of {floor.model}"
            raise EdgedError(Code.REPOSITORY_INVALID, found, "publish the model anew")
        return floor.min_revision

    def manifest(self, model: str, revision: int) -> Manifest:
        """A manifest, checked as far as it can be without its files.

        Raises EdgedError: revision_not_found; rollback_attack below the signed floor; bundle_invalid.
        """
        floor = self.min_revision(model)
        if revision < floor:
            found = f"{model} revision {revision} lies below the signed floor, {floor}"
            raise EdgedError(Code.ROLLBACK_ATTACK, found, "choose a revision that may still run")
        name = f"models/{model}/{revision}.json"
        raw = self._trusted.target(name, f"{self._url}/targets", MAX_MANIFEST_BYTES)
        if raw is None:
            found = f"{model} revision {revision} is not published"
            raise EdgedError(Code.REVISION_NOT_FOUND, found, "publish it, or mend the plan")
        manifest = parse_manifest(raw, Path(name))
        if (manifest.name, manifest.revision) != (model, revision):
            found = f"{name}: is the manifest of {manifest.name} revision {manifest.revision}"
            raise EdgedError(Code.BUNDLE_INVALID, found, "publish it under its own name")
        return manifest

    def chunk(self, digest: str, length: int) -> bytes:
        """A chunk of that digest and length. Raises EdgedError (download_failed) once it was asked for often enough."""
        place = chunks.place(digest)
        for pause_s in (*_PAUSES_S, None):
            try:
                raw = self._transport.download_bytes(f"{self._url}/{place}", chunks.packed_bound(length))
                return chunks.unpack(raw, digest, length)
            except (DownloadError, chunks.DamagedChunkError) as error:
                lasting = isinstance(error, DownloadHTTPError) and error.status_code < 500
                if pause_s is None or lasting:
                    hint = "it is tried again later; what has come is kept"
                    raise EdgedError(Code.DOWNLOAD_FAILED, f"{place}: {error}", hint) from error
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    def operators(self) -> bytes | None:
        """The signed `operators.json`; None where nobody may command. Raises EdgedError."""
        return self._kept(OPERATORS_NAME, MAX_OPERATORS_BYTES)

    def _kept(self, name: str, limit: int) -> bytes | None:
        return self._trusted.kept(name, f"{self._url}/targets", limit)
