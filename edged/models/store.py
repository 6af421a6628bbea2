"""The store: the files of installed revisions, each kept once, under its digest, and never changed.

    blobs/ab/<sha256>                a file, read-only
    revisions/<model>/<revision>/    manifest.json, and the files as hard links to their blobs
    staging/<model>/<revision>/      what is being fetched: manifest.json, blobs/<sha256>, unfinished ones as *.part
    passing/                         folders on their way in or out; whatever lies here at a start is rubbish

A revision appears by one rename of a folder that is complete and synced, and goes by another. A power cut leaves a
revision whole or not there, and at worst blobs that nothing refers to, which `collect` removes.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from edged import durable, schema
from edged.bundle.folder import parse_manifest, read_manifest
from edged.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, File, Manifest
from edged.errors import Code, EdgedError
from edged.models import files
from edged.types import ModelName

_REVISION = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)

Key = tuple[str, int]
"""A model and a revision."""


class Damage(msgspec.Struct, frozen=True):
    """A blob that is not what its name says, or a revision (then `digest` is empty) whose manifest cannot be read."""

    digest: str
    what: str
    revisions: tuple[Key, ...]
    """Those that have it: what is to be fetched again."""


class Collected(msgspec.Struct, frozen=True):
    """What a collection took away."""

    revisions: tuple[Key, ...]
    blobs: int
    bytes: int


def check_model_name(name: str) -> str:
    """The same, which is no path then. Raises EdgedError (invalid_argument)."""
    try:
        return msgspec.convert(name, ModelName)
    except msgspec.ValidationError as error:
        text = f"{schema.show(name)} is no model's name"
        raise EdgedError(Code.INVALID_ARGUMENT, text, f"a name is {schema.describe(ModelName)}") from error


class Store:
    """Everything below one folder. It blocks on the disk: call it from a thread. One process writes at a time."""

    def __init__(self, root: Path, quota_bytes: int = 0, reserve_bytes: int = 0) -> None:
        """Nothing is read or written yet.

        `quota_bytes`: the most that all of it may take, 0 for no bound; `reserve_bytes`: what stays free on its disk.
        """
        self.root = root
        self.quota_bytes = quota_bytes
        self.reserve_bytes = reserve_bytes

    def models(self) -> list[str]:
        """The models that have a revision here, by name. Raises OSError."""
        return sorted(model for model in files.names(self.root / "revisions") if self.revisions(model))

    def revisions(self, model: str) -> list[int]:
        """The installed revisions of `model`, the highest first. Raises OSError."""
        found = (name for name in files.names(self.root / "revisions" / model) if _REVISION.fullmatch(name))
        return sorted(map(int, found), reverse=True)

    def path(self, model: str, revision: int) -> Path:
        """The folder of a revision, installed or not; a worker serves from it. Raises EdgedError for a wrong name."""
        return self.root / "revisions" / check_model_name(model) / str(revision)

    def manifest(self, model: str, revision: int) -> Manifest:
        """The manifest of an installed revision. Raises EdgedError when it is not there whole."""
        return read_manifest(self.path(model, revision))

    def staging(self, model: str, revision: int) -> Path:
        """The folder into which a revision is fetched; the fetcher makes it. Raises EdgedError for a wrong name."""
        return self.root / "staging" / check_model_name(model) / str(revision)

    def blob(self, digest: str) -> Path:
        """Where the file of that digest lies, when it is here."""
        return self.root / "blobs" / digest[:2] / digest

    def used_bytes(self) -> int:
        """What the store takes on the disk, unfinished downloads included. Raises OSError."""
        return sum(
            files.disk_bytes(path)
            for folder in ("blobs", "staging", "passing")
            for path in files.files(self.root / folder)
        )

    def staged_bytes(self, model: str, revision: int) -> int:
        """What has come of a revision that is being fetched, as it lies on the disk. Raises OSError."""
        return sum(map(files.disk_bytes, files.files(self.staging(model, revision))))

    def lacking_bytes(self, model: str, revision: int) -> int | None:
        """What is still to come of it; None where its manifest has not. Raises OSError."""
        staging = self.staging(model, revision)
        try:
            sizes = {file.sha256: file.size for file in _manifest_in(staging).files}
        except EdgedError:
            return None
        return sum(
            max(0, size - files.disk_bytes(staging / "blobs" / f"{digest}.part"))
            for digest, size in sizes.items()
            if not (staging / "blobs" / digest).exists() and not self.blob(digest).exists()
        )

    def room_bytes(self) -> int:
        """How many more bytes it may take: neither beyond its quota nor into the reserve. Raises OSError."""
        at = self.root
        while not at.exists():
            at = at.parent
        disk = os.statvfs(at)
        free = disk.f_bavail * disk.f_frsize - self.reserve_bytes
        return max(0, min(free, self.quota_bytes - self.used_bytes()) if self.quota_bytes else free)

    def tidy(self) -> None:
        """Removes what a power cut left on its way; to be called at start. Raises OSError."""
        for name in files.names(self.root / "passing"):
            files.remove_tree(self.root / "passing" / name)

    def take_in(self, staging: Path) -> Manifest:
        """Moves a fetched revision into the store, each of its bytes read and hashed again; `staging` is then gone.

        It may be called again after it was interrupted anywhere, and mends a revision whose blobs were discarded, or
        whose manifest cannot be read any more.
        Raises EdgedError: digest_mismatch naming a file that is missing or not what the manifest says; bundle_invalid;
        storage_full. Raises OSError where the disk fails otherwise.
        """
        try:
            return self._take_in(staging)
        except OSError as error:
            if error.errno in files.FULL:
                found = f"{self.root}: there is no space left to take a revision in"
                raise EdgedError(Code.STORAGE_FULL, found, "free space on the disk of the state folder") from error
            raise

    def _take_in(self, staging: Path) -> Manifest:
        raw = files.read(staging, MANIFEST_NAME, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(raw, staging / MANIFEST_NAME)
        if staging != self.staging(manifest.name, manifest.revision):
            found = f"{staging} holds {manifest.name} revision {manifest.revision}"
            raise EdgedError(Code.BUNDLE_INVALID, found, "fetch the revision again")
        for file in manifest.files:
            self._take_blob(staging / "blobs", file)
        target = self.path(manifest.name, manifest.revision)
        if target.exists() and not _is_told_of(target):
            self._remove(target)
        if target.exists():
            self._mend(target, manifest, raw)
        else:
            self._assemble(target, manifest, raw)
        self._remove(staging)
        return manifest

    def _take_blob(self, source: Path, file: File) -> None:
        blob, staged = self.blob(file.sha256), source / file.sha256
        if blob.exists() and not files.fault(blob, file.sha256, file.size):
            staged.unlink(missing_ok=True)
            return
        if fault := files.fault(staged, file.sha256, file.size):
            staged.unlink(missing_ok=True)
            found = f"{file.path}: what was fetched {fault}"
            raise EdgedError(Code.DIGEST_MISMATCH, found, "it is fetched again")
        staged.chmod(0o444)
        files.sync_file(staged)
        files.make_folder(blob.parent)
        durable.place(staged, blob)

    def _assemble(self, target: Path, manifest: Manifest, raw: bytes) -> None:
        files.make_folder(target.parent)
        passing = self._passing()
        try:
            files.make_folder(passing)
            for file in manifest.files:
                link = passing / file.path
                files.make_folder(link.parent)
                os.link(self.blob(file.sha256), link)
            for folder in {(passing / file.path).parent for file in manifest.files}:
                durable.sync_folder(folder)
            durable.write(passing / MANIFEST_NAME, raw, mode=0o444)
            durable.place(passing, target)
        except BaseException:
            files.remove_tree(passing)
            raise

    def _mend(self, target: Path, manifest: Manifest, raw: bytes) -> None:
        """Gives an installed revision again the blobs that it lacks. Raises EdgedError when it is another one."""
        if files.read(target, MANIFEST_NAME, MAX_MANIFEST_BYTES) != raw:
            found = f"{manifest.name} revision {manifest.revision} is installed with another content"
            raise EdgedError(Code.BUNDLE_INVALID, found, "a revision never changes: publish it under a new number")
        for file in manifest.files:
            link, blob = target / file.path, self.blob(file.sha256)
            if _same(link, blob):
                continue
            passing = self._passing()
            files.make_folder(passing.parent)
            os.link(blob, passing)
            files.make_folder(link.parent)
            durable.place(passing, link)

    def remove(self, model: str, revision: int) -> None:
        """Takes a revision away; its blobs stay until they are collected. Raises OSError."""
        self._remove(self.path(model, revision))

    def discard_staging(self, model: str, revision: int) -> None:
        """Gives up what was fetched of a revision. Raises OSError."""
        self._remove(self.staging(model, revision))

    def discard_other_staging(self, model: str, revision: int) -> None:
        """Gives up what was fetched of a model's other revisions. Raises OSError."""
        for name in files.names(self.staging(model, revision).parent):
            if name != str(revision):
                self._remove(self.root / "staging" / model / name)

    def _remove(self, folder: Path) -> None:
        if not folder.exists():
            return
        passing = self._passing()
        files.make_folder(passing.parent)
        durable.place(folder, passing)
        durable.sync_folder(folder.parent)
        files.remove_tree(passing)

    def keys(self) -> set[Key]:
        """What is here, installed or being fetched. Raises OSError."""
        return {
            (model, int(name))
            for top in ("staging", "revisions")  # in this order: what is taken in meanwhile is seen in one of them
            for model in files.names(self.root / top)
            for name in files.names(self.root / top / model)
            if _REVISION.fullmatch(name)
        }

    def collect(self, among: Collection[Key], keep: Collection[Key]) -> Collected:
        """Removes what is `among` the revisions and staging folders and not to `keep`, and blobs that nothing has then.

        `among` is what was here before it was asked what to keep: what came later is nobody's to judge. `keep` is what
        serves, what served before, and what is being fetched. Raises OSError.
        """
        removed = []
        for model, revision in set(among).difference(keep):
            staging, installed = (self.root / top / model / str(revision) for top in ("staging", "revisions"))
            self._remove(staging)
            if installed.exists():
                self._remove(installed)
                removed.append((model, revision))
        awaited = {file.sha256 for manifest in self._staged() for file in manifest.files}
        blobs = freed = 0
        for blob in list(files.files(self.root / "blobs")):
            found = blob.lstat()
            if found.st_nlink == 1 and blob.name not in awaited:
                blob.unlink()
                blobs, freed = blobs + 1, freed + found.st_blocks * 512
        return Collected(tuple(sorted(removed)), blobs, freed)

    def _staged(self) -> Iterator[Manifest]:
        """What is being fetched: the fetcher leaves out what the store had when it looked."""
        for folder in (self.root / "staging").glob("*/*"):
            try:
                yield _manifest_in(folder)
            except EdgedError:
                continue  # it has not come yet; until then nothing was left out

    def verify(self) -> list[Damage]:
        """Reads and hashes every blob, and finds what installed revisions lack. Raises OSError.

        That takes a while, and what is collected meanwhile is no damage.
        """
        found: list[Damage] = []
        users: dict[str, set[Key]] = {}
        wrong: dict[str, str] = {}
        for model in self.models():
            for revision in self.revisions(model):
                key, folder = (model, revision), self.path(model, revision)
                try:
                    manifest = _manifest_in(folder)
                except EdgedError as error:
                    found.append(Damage("", str(error), (key,)))
                    continue
                for file in manifest.files:
                    users.setdefault(file.sha256, set()).add(key)
                    if not _same(folder / file.path, self.blob(file.sha256)):
                        wrong[file.sha256] = f"is not what {model} revision {revision} has as {file.path}"
        for digest in sorted(users.keys() | {blob.name for blob in files.files(self.root / "blobs")}):
            if fault := files.fault(self.blob(digest), digest):
                wrong[digest] = fault
        found += [Damage(digest, what, tuple(sorted(users.get(digest, ())))) for digest, what in wrong.items()]
        return [damage for damage in found if self._is_here(damage)]

    def _is_here(self, damage: Damage) -> bool:
        """Whether a revision that it is about is still installed; of a blob that none has, whether that is there."""
        places = [self.path(*key) for key in damage.revisions] or [self.blob(damage.digest)]
        return any(place.exists() for place in places)

    def discard(self, damage: Damage) -> None:
        """Takes what is damaged out of the store; fetching the revisions again and taking them in mends them.

        A worker that has it open keeps what it has. Raises OSError.
        """
        if not damage.digest:
            for model, revision in damage.revisions:
                self.remove(model, revision)
            return
        blob = self.blob(damage.digest)
        blob.unlink(missing_ok=True)
        if blob.parent.exists():
            durable.sync_folder(blob.parent)

    def discard_damaged(self, model: str, revision: int) -> bool:
        """Reads every byte of an installed revision; takes out what is damaged, and says whether anything was.

        Raises EdgedError where it is not installed, or OSError.
        """
        damaged = [
            file.sha256
            for file in self.manifest(model, revision).files
            if files.fault(self.path(model, revision) / file.path, file.sha256, file.size)
        ]
        for digest in damaged:
            self.discard(Damage(digest, "", ((model, revision),)))
        return bool(damaged)

    def _passing(self) -> Path:
        return self.root / "passing" / secrets.token_hex(8)


def _is_told_of(folder: Path) -> bool:
    """Whether its manifest can be read."""
    try:
        _manifest_in(folder)
    except EdgedError:
        return False
    return True


def _manifest_in(folder: Path) -> Manifest:
    """The manifest in `folder`, its files not looked at. Raises EdgedError."""
    return parse_manifest(files.read(folder, MANIFEST_NAME, MAX_MANIFEST_BYTES), folder / MANIFEST_NAME)


def _same(link: Path, blob: Path) -> bool:
    try:
        return link.samefile(blob)
    except OSError:
        return False
