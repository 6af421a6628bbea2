"""The daemon's own folders: made, kept from others, and locked so that there is one daemon."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from edged.errors import Code, EdgedError


class Lock:
    """Held while the daemon runs: a second one would silently take the sockets of the first."""

    def __init__(self, path: Path) -> None:
        """Takes the lock. Raises EdgedError: already_running naming the holder, or cannot_listen."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EdgedError(
                Code.CANNOT_LISTEN, f"{path} cannot be opened: {error.strerror}", "check who may write to its folder"
            ) from error
        try:
            _lock(self._descriptor, path)
        except BlockingIOError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise _taken(f"another edged (pid {holder}) holds {path}") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets the next one start. The file stays: removing it would race with whoever opens it now."""
        os.close(self._descriptor)


class FolderLock:
    """A lock on a folder itself, which works where nothing can be written too."""

    def __init__(self, folder: Path) -> None:
        """Takes the lock. Raises EdgedError: already_running, or not_permitted."""
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _not_permitted(folder, f"cannot be opened: {error.strerror}") from error
        try:
            _lock(self._descriptor, folder)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise _taken(f"another edged keeps its state in {folder}") from error

    def release(self) -> None:
        """Lets the next one have it."""
        os.close(self._descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Raises BlockingIOError when it is taken; EdgedError, with the descriptor closed, when there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        os.close(descriptor)
        raise EdgedError(
            Code.CANNOT_LISTEN, f"{path} cannot be locked: {error.strerror}", "use a file system that has locks"
        ) from error


def take(state: Path, sockets: Sequence[Path], stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> list[str]:
    """Makes and locks the state folder and those of the sockets, until the stack is left; says what is amiss.

    Raises EdgedError: already_running, cannot_listen or not_permitted.
    """
    make_folder(state, 0o700)
    faults = [keep_private(state)]
    for folder in sockets:
        make_folder(folder, 0o750)
        faults.append(open_to_all(folder))
        stack.callback(Lock(folder / "edged.lock").release)
    stack.callback(FolderLock(state).release)
    return [fault for fault in faults if fault]


def make_folder(path: Path, mode: int) -> None:
    """Makes `path` and what is missing above it. Raises EdgedError (not_permitted)."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise _not_permitted(path, f"cannot be made: {error.strerror}") from error


def keep_private(folder: Path) -> str:
    """Shuts everybody else out of `folder`; says what is wrong where that cannot be done, else nothing."""
    found = folder.stat()
    if not found.st_mode & 0o077:
        return ""
    try:
        folder.chmod(0o700)
    except OSError as error:
        return f"others may enter {folder} (mode {stat.S_IMODE(found.st_mode):04o}): {error.strerror}; chmod 0700 it"
    return ""


def open_to_all(folder: Path) -> str:
    """What is wrong when anybody may put a socket of their own into `folder`, else nothing."""
    mode = folder.stat().st_mode
    if not mode & stat.S_IWOTH:
        return ""
    return f"anybody may write to {folder} (mode {stat.S_IMODE(mode):04o}); make it 0750 or stricter"


def _taken(what: str) -> EdgedError:
    return EdgedError(Code.ALREADY_RUNNING, what, "stop it first, or give this one a folder of its own with --root")


def _not_permitted(path: Path, why: str) -> EdgedError:
    return EdgedError(
        Code.NOT_PERMITTED,
        f"{path} {why}",
        "start edged as its service does, or give it a folder of yours with --root",
    )
