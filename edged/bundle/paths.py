"""Paths inside a bundle: which are safe, and how a file is opened without leaving the bundle."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from edged import inside
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
    try:
        return inside.open_regular(folder, path)
    except inside.UnfitError as error:
        raise EdgedError(Code.BUNDLE_INVALID, f"{error.filename}: {error.what}", error.remedy) from error
    except OSError as error:
        hint = "check that it is there and who may read it"
        raise EdgedError(Code.BUNDLE_INVALID, f"{error.filename}: cannot be opened: {error.strerror}", hint) from error
