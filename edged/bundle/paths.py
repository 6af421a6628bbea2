"""Paths inside a bundle: which are safe, and how a file is opened without leaving the bundle."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

from edged.bundle.manifest import MANIFEST_NAME
from edged.errors import Code, EdgedError

DESCRIPTION_NAME = "bundle.toml"
MAX_PART_BYTES = 255

# Control characters, invisible ones (some turn the order of what is shown), lone surrogates, line separators.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def fault(path: str) -> str:
    """Why `path` may not name a file of a bundle; empty when it may.

    A path without fault is the same below any folder: joined and normalized, it stays inside and does not change.
    """
    if any(unicodedata.category(letter) in _UNSHOWN for letter in path):
        return "holds control characters or invisible ones"
    if "\\" in path:
        return "holds a backslash"
    if path.startswith("/"):
        return "is absolute"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode's normal form C"
    for part in path.split("/"):
        if part == "":
            return "has an empty part"
        if part in (".", ".."):
            return f'has a part "{part}"'
        if part.endswith((" ", ".")):
            return f'has a part that ends with "{part[-1]}"'
        if len(part.encode()) > MAX_PART_BYTES:
            return f"has a part longer than {MAX_PART_BYTES} bytes"
    if path.casefold() in (DESCRIPTION_NAME, MANIFEST_NAME):
        return "is the bundle's own description"
    return ""


def open_inside(folder: Path, path: str) -> int:
    """Opens the regular file `path` of a bundle for reading, following no link below `folder`.

    The caller closes the descriptor. Raises EdgedError that names the path and what stands there instead.
    """
    reason = fault(path)
    if reason:
        raise EdgedError(
            Code.BUNDLE_INVALID,
            f"{folder}: the path {path!r} {reason}",
            "name a file inside the bundle, as in model.onnx",
        )
    return open_regular(folder, path)


def open_regular(folder: Path, path: str) -> int:
    """As open_inside, for a path that is known to be safe."""
    at = _open_folder(folder)
    *parents, name = path.split("/")
    try:
        for index, parent in enumerate(parents):
            shown = folder.joinpath(*parents[: index + 1])
            _check_kind(at, parent, shown, folder_wanted=True)
            below = _open_at(at, parent, shown, os.O_DIRECTORY)
            os.close(at)
            at = below
        _check_kind(at, name, folder / path, folder_wanted=False)
        # Should a pipe have taken the file's place since, O_NONBLOCK keeps this from waiting for its writer.
        descriptor = _open_at(at, name, folder / path, os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder / path}: changed while it was opened", "try again")
    return descriptor


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        hint = "name a folder that is there and may be read"
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder}: cannot be opened: {error.strerror}", hint) from error


def _open_at(at: int, name: str, shown: Path, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=at)
    except OSError as error:
        hint = "check who may read it"
        raise EdgedError(Code.BUNDLE_INVALID, f"{shown}: cannot be opened: {error.strerror}", hint) from error


def _check_kind(at: int, name: str, shown: Path, *, folder_wanted: bool) -> None:
    """Says what stands under a name that is not what is wanted, without opening it."""
    try:
        mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
    except FileNotFoundError as error:
        hint = "put it there, or mend the path that names it"
        raise EdgedError(Code.BUNDLE_INVALID, f"{shown}: does not exist", hint) from error
    except OSError as error:
        hint = "check who may read it"
        raise EdgedError(Code.BUNDLE_INVALID, f"{shown}: cannot be read: {error.strerror}", hint) from error
    if not (stat.S_ISDIR(mode) if folder_wanted else stat.S_ISREG(mode)):
        hint = "put the folder itself there" if folder_wanted else "put the file itself there"
        raise EdgedError(Code.BUNDLE_INVALID, f"{shown}: is {_kind(mode)}", hint)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a link",
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a named pipe (FIFO)",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")
