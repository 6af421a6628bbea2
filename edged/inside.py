"""Opens a file below a folder without leaving it, whatever stands there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# What the mode of a path says that it is.
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
}


class UnfitError(OSError):
    """Something else stands there than was wanted: `what`, in words, and how to mend that: `remedy`."""

    def __init__(self, shown: Path, what: str, remedy: str, strerror: str) -> None:
        super().__init__(errno.EINVAL, strerror, str(shown))
        self.what = what
        self.remedy = remedy


def open_regular(folder: Path, path: str) -> int:
    """Opens the regular file `path` below `folder` for reading; no part of `path` is followed where it is a link.

    `folder` itself may be reached by a link. Each part is looked at before it is opened, since opening a device may
    have consequences, and nothing is waited for. The caller closes the descriptor. Raises OSError whose filename is the
    part in the way; UnfitError where that is something else, or nothing.
    """
    at = _open(None, str(folder), folder, os.O_DIRECTORY)
    *parents, name = path.split("/")
    try:
        for index, parent in enumerate(parents):
            shown = folder.joinpath(*parents[: index + 1])
            _check_kind(at, parent, shown, folder_wanted=True)
            below = _open(at, parent, shown, os.O_DIRECTORY | os.O_NOFOLLOW)
            os.close(at)
            at = below
        _check_kind(at, name, folder / path, folder_wanted=False)
        # Should a pipe have taken the file's place since, O_NONBLOCK keeps this from waiting for its writer.
        descriptor = _open(at, name, folder / path, os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnfitError(folder / path, "changed while it was opened", "try again", "it changed while it was opened")
    return descriptor


def _open(at: int | None, name: str, shown: Path, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=at)
    except OSError as error:
        error.filename = str(shown)
        raise


def _check_kind(at: int, name: str, shown: Path, *, folder_wanted: bool) -> None:
    """Says what stands under a name that is not what is wanted, without opening it."""
    if name in ("", ".", ".."):
        raise UnfitError(shown, "is no name of a file", "name a file below the folder", "it is no name of a file")
    try:
        mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
    except FileNotFoundError as error:
        hint = "put it there, or mend the path that names it"
        raise UnfitError(shown, "does not exist", hint, os.strerror(errno.ENOENT)) from error
    except OSError as error:
        error.filename = str(shown)
        raise
    if not (stat.S_ISDIR(mode) if folder_wanted else stat.S_ISREG(mode)):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        said = os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else f"{name if folder_wanted else 'it'} is {kind}"
        raise UnfitError(shown, f"is {kind}", f"put the {'folder' if folder_wanted else 'file'} itself there", said)
