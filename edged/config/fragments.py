"""Finds and reads the files that settings come from, in the order in which later ones win."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from edged import document
from edged.config import names
from edged.document import Document, DocumentError, Place, Problem
from edged.errors import Code

# Vendor first, administrator last; each a file and the folder of its drop-ins.
SOURCES = ("/usr/lib/edged/edged.toml", "/etc/edged/edged.toml")

_NULL = os.makedev(1, 3)
"""The number of /dev/null in Linux; a link to it switches a file off."""

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}

Fragment = Document | DocumentError
"""A file that was read, or why it could not be."""


def read(root: Path, files: Sequence[Path] = ()) -> tuple[Fragment, ...]:
    """`files` in the order given or, where none are, those found below `root`. Raises nothing for what is in them."""
    return tuple(_read(path) for path in files) if files else tuple(_found(root))


def _found(root: Path) -> Iterator[Fragment]:
    for source in SOURCES:
        path = root / source.lstrip("/")
        if not _is_missing(path):
            yield _read(path)
        yield from _dropins(path.with_name(f"{path.name}.d"))


def _dropins(folder: Path) -> Iterator[Fragment]:
    if _is_missing(folder):
        return
    try:
        found = sorted(path for path in folder.iterdir() if path.name.endswith(".toml") and path.name[0] != ".")
    except OSError as error:
        yield _refusal(folder, f"cannot be listed: {error.strerror}", "check that it is a folder and who may read it")
        return
    for path in found:
        if names.is_text(path):
            yield _read(path)
        else:
            yield _refusal(Path(names.printable(path)), "has a name that is not UTF-8", "rename it")


def _is_missing(path: Path) -> bool:
    """Whether nothing has that name; what cannot be looked at, or leads nowhere, is there and will be reported."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _read(path: Path) -> Fragment:
    """Reads a file that can be read again at any time and without waiting: a regular one, or /dev/null for none."""
    try:
        _refuse_unfit(path, path.stat())  # first: some devices act when they are opened
        with open(path, "rb", opener=_open_at_once) as file:
            _refuse_unfit(path, os.fstat(file.fileno()))
            raw = file.read(document.MAX_BYTES + 1)
        return document.parse(raw, str(path), Code.SETTINGS_INVALID)
    except OSError as error:
        return _refusal(path, f"cannot be read: {error.strerror}", "check that it is a file and who may read it")
    except DocumentError as error:
        return error


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting, should a pipe have taken the file's place since it was looked at."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _refuse_unfit(path: Path, found: os.stat_result) -> None:
    """Raises DocumentError for what is neither a regular file nor /dev/null."""
    if stat.S_ISREG(found.st_mode) or (stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL):
        return
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
    why = "; settings are read again on a reload, so `<(…)` of a shell will not do" if kind == "a pipe" else ""
    raise _refusal(path, f"is {kind}, not a regular file", f"put a file there{why}")


def _refusal(path: Path, found: str, remedy: str) -> DocumentError:
    return DocumentError(Code.SETTINGS_INVALID, [Problem(Place(str(path)), "", found, remedy)])
