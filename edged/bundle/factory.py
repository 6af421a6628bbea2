"""The bundles that came with the image: `<factory>/<model>/<revision>/manifest.json`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edged.bundle.folder import read_manifest
from edged.bundle.manifest import Manifest
from edged.errors import Code, EdgedError

_REVISION = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)


class Found(msgspec.Struct, frozen=True):
    """A place where a bundle should be: either its manifest, or why there is none to use.

    `model` and `revision` are what the folders say; 0 stands for a folder whose name is no revision, and an empty
    `model` for the factory folder itself.
    """

    model: str
    revision: int
    folder: Path
    manifest: Manifest | None = None
    error: EdgedError | None = None


def discover(factory: Path) -> list[Found]:
    """Every bundle below `factory`, by model name, the highest revision first; a missing folder holds none.

    Raises nothing for a bundle that cannot be used: that is told in its own entry.
    """
    return sorted(_models(factory), key=lambda entry: (entry.model, -entry.revision, entry.folder.name))


def _models(factory: Path) -> Iterator[Found]:
    try:
        folders = _folders(factory)
    except FileNotFoundError:
        return
    except OSError as error:
        yield Found("", 0, factory, error=_unreadable(factory, error))
        return
    for folder in folders:
        try:
            revisions = _folders(folder)
        except OSError as error:
            yield Found(folder.name, 0, folder, error=_unreadable(folder, error))
            continue
        for revision in revisions:
            yield _bundle(revision)


def _folders(folder: Path) -> list[Path]:
    """The visible entries of `folder` that are no plain files; a link that leads nowhere is found when it is opened."""
    with os.scandir(folder) as entries:
        return [folder / entry.name for entry in entries if not entry.name.startswith(".") and _may_be_folder(entry)]


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() or (entry.is_symlink() and not entry.is_file())
    except OSError:  # a link that leads to itself
        return True


def _bundle(folder: Path) -> Found:
    model = folder.parent.name
    revision = int(folder.name) if _REVISION.fullmatch(folder.name) else 0
    try:
        if not revision:
            hint = "a bundle's folder is named by its revision: 7"
            raise EdgedError(Code.BUNDLE_INVALID, f"{folder}: is named by no revision", hint)
        manifest = read_manifest(folder)
        for what, named, says in (("model", model, manifest.name), ("revision", revision, manifest.revision)):
            if named != says:
                found = f"{folder}: the folder names the {what} {named}, and its manifest {says}"
                raise EdgedError(Code.BUNDLE_INVALID, found, "a bundle lies in MODEL/REVISION; move it there")
    except EdgedError as error:
        return Found(model, revision, folder, error=error)
    return Found(model, revision, folder, manifest=manifest)


def _unreadable(folder: Path, error: OSError) -> EdgedError:
    return EdgedError(Code.BUNDLE_INVALID, f"{folder}: cannot be read: {error.strerror}", "check who may read it")
