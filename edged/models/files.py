"""Files of the store as they lie on the disk: listed, read, checked, made and removed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from edged import durable, inside
from edged.errors import Code, EdgedError

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_READ_BYTES = 1024 * 1024

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The error numbers that mean that there is no space for what is to be written."""

# They say nothing of the file.
_OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def names(folder: Path) -> list[str]:
    """The visible names in `folder`, sorted; none where it is not there."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def files(folder: Path) -> Iterator[Path]:
    for at, _, found in os.walk(folder):
        yield from (Path(at) / name for name in found)


def disk_bytes(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:  # the fetcher is at work
        return 0


def read(folder: Path, name: str, limit: int) -> bytes:
    """The content of a regular file below `folder`. Raises EdgedError (bundle_invalid), also beyond `limit` bytes."""
    try:
        with open(inside.open_regular(folder, name), "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        found = f"{folder / name}: cannot be read: {error.strerror}"
        raise EdgedError(Code.BUNDLE_INVALID, found, "fetch the revision again") from error
    if len(content) > limit:
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder / name}: is larger than {limit} bytes", "fetch it again")
    return content


def fault(path: Path, digest: str, size: int | None = None) -> str:
    """Why the file at `path` is not that of `digest`; empty when it is.

    Raises OSError where nothing can be said of it: the process may open no more files, or has no memory.
    """
    if not _DIGEST.fullmatch(digest):
        return "has a name that is no digest"
    try:
        with open(inside.open_regular(path.parent, path.name), "rb", buffering=0) as file:
            found, length = hashlib.sha256(), os.fstat(file.fileno()).st_size
            if size is not None and length != size:
                return f"has {length} bytes, not {size}"
            while block := file.read(_READ_BYTES):
                found.update(block)
    except inside.UnfitError as error:
        return error.what
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "does not exist"
        if error.errno in _OF_THE_PROCESS:
            raise
        return f"cannot be read: {error.strerror}"
    return "" if found.hexdigest() == digest else f"has another digest, {found.hexdigest()}"


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes `folder` and what is missing above it, so that the names survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o755, exist_ok=True)
    durable.sync_folder(folder.parent)


def remove_tree(folder: Path) -> None:
    """Removes a folder, or a lone file, with all that is in it."""
    try:
        if stat.S_ISDIR(folder.lstat().st_mode):
            shutil.rmtree(folder)
        else:
            folder.unlink()
    except FileNotFoundError:
        return
