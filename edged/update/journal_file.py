"""The journal's file: whether it is whole and can be written, its copy, and what becomes of a damaged one."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from edged import durable

_HEADER_BYTES, _LARGEST_PAGE = 100, 65536
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_SET_ASIDE_KEPT = 2


def is_cut(path: Path) -> bool:
    """Whether the file ends before its last page, which SQLite may read as zeros without a word.

    Its header says how many pages there are (https://sqlite.org/fileformat2.html#in_header_database_size); with a log
    beside it that is not the last word.
    """
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        return False
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or head[24:28] != head[92:96]:
        return False
    page = int.from_bytes(head[16:18], "big")
    return path.stat().st_size < (_LARGEST_PAGE if page == 1 else page) * int.from_bytes(head[28:32], "big")


def is_writable(folder: Path) -> bool:
    """Whether files can be made there; root may, whatever the mode says, and nobody on a read-only file system."""
    probe = folder / ".writable"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return error.errno not in _READ_ONLY
    return True


def copy(path: Path, runtime: Path) -> Path:
    """The database as it was last committed: with its log, which a read-only folder would not let be read."""
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        target = runtime / (path.name + suffix)
        target.unlink(missing_ok=True)
        source = path.with_name(path.name + suffix)
        if suffix != "-shm" and source.exists():  # the index of the log is made anew
            shutil.copyfile(source, target)
    return runtime / path.name


def set_aside(path: Path) -> None:
    """Under another name, with its log, for whoever wants to look; the oldest beyond a few go."""
    number = 1 + max((int(old.suffix[1:]) for old in _asides(path)), default=0)
    for suffix in ("-wal", "-shm", ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            durable.place(source, path.with_name(f"{path.name}{suffix}.damaged.{number}"))
    for old in _asides(path):
        if int(old.suffix[1:]) <= number - _SET_ASIDE_KEPT:
            old.unlink()


def _asides(path: Path) -> list[Path]:
    return [old for old in path.parent.glob(f"{path.name}*.damaged.*") if old.suffix[1:].isdigit()]
