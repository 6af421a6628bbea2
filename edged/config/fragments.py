"""Finds and reads the files that settings come from, in the order in which later ones win."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from edged import document
from edged.document import Document, DocumentError, Place, Problem
from edged.errors import Code

# Vendor first, administrator last; each a file and the folder of its drop-ins.
SOURCES = ("/usr/lib/edged/edged.toml", "/etc/edged/edged.toml")

Fragment = Document | DocumentError
"""A file that was read, or why it could not be."""


def read(root: Path, files: Sequence[Path] = ()) -> tuple[Fragment, ...]:
    """`files` in the order given or, where none are, those found below `root`. Raises nothing for what is in them."""
    return tuple(_read(path) for path in files) if files else tuple(_found(root))


def _found(root: Path) -> Iterator[Fragment]:
    for source in SOURCES:
        path = root / source.lstrip("/")
        if not _is_missing(path):
            yield _read_found(path)
        yield from _dropins(path.with_name(f"{path.name}.d"))


def _dropins(folder: Path) -> Iterator[Fragment]:
    if _is_missing(folder):
        return
    try:
        found = sorted(path for path in folder.iterdir() if path.name.endswith(".toml") and path.name[0] != ".")
    except OSError as error:
        yield _refusal(folder, f"cannot be listed: {error.strerror}", "check that it is a folder and who may read it")
        return
    yield from map(_read_found, found)


def _is_missing(path: Path) -> bool:
    """Whether nothing has that name; what cannot be looked at, or leads nowhere, is there and will be reported."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _read_found(path: Path) -> Fragment:
    try:
        pipe = stat.S_ISFIFO(path.stat().st_mode)
    except OSError:  # reading will say what is wrong with it
        pipe = False
    if pipe:  # opening it would wait for a writer
        return _refusal(path, "is a pipe", "put a file here")
    return _read(path)


def _read(path: Path) -> Fragment:
    try:
        return document.read(path, Code.SETTINGS_INVALID)
    except DocumentError as error:
        return error


def _refusal(path: Path, found: str, remedy: str) -> DocumentError:
    return DocumentError(Code.SETTINGS_INVALID, [Problem(Place(str(path)), "", found, remedy)])
