"""The one place that makes files appear, whole or not at all; nothing else calls rename or replace."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Writes `content` so that after a power cut `path` holds either what it held before or all of it.

    Raises OSError (ENOSPC, EROFS, EACCES…); nothing is left behind then, and `path` holds what it held, or all of
    `content` where only the last step failed, which is to make the new name survive a power cut.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def place(source: Path, target: Path) -> None:
    """Renames `source` over `target` and makes the new name survive a power cut. Raises OSError."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Makes names created, renamed or removed in `folder` survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
