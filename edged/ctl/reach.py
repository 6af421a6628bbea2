"""Whether somebody listens on a socket, and in words why not."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from pathlib import Path

from edged.errors import Code, EdgedError


class Door:
    """The folder of a socket, held open: by its descriptor, a path of any length and spelling can be connected to."""

    def __init__(self, path: Path, start_hint: str, timeout_s: float) -> None:
        """Connects once. Raises EdgedError: not_running, with `start_hint`, or not_permitted, with what to do."""
        try:
            self._folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _closed(path, start_hint, error) from error
        self.path = f"/proc/self/fd/{self._folder}/{path.name}"
        try:
            with socket.socket(socket.AF_UNIX) as knock:
                knock.settimeout(timeout_s)
                knock.connect(self.path)
        except OSError as error:
            self.close()
            raise _closed(path, start_hint, error) from error

    def close(self) -> None:
        """Lets go of the folder."""
        os.close(self._folder)


def _closed(path: Path, start_hint: str, error: OSError) -> EdgedError:
    absent = "edged is not running, or it listens elsewhere"  # on other settings than those at hand
    match error:
        case PermissionError():
            return _denied(path)
        case FileNotFoundError() | NotADirectoryError():
            return EdgedError(Code.NOT_RUNNING, f"{absent}: {path} is not there", start_hint)
        case ConnectionRefusedError():
            return EdgedError(Code.NOT_RUNNING, f"{absent}: nobody listens on {path}", start_hint)
        case BlockingIOError() | TimeoutError():
            hint = "it may hang or have too much to do; see `journalctl -u edged`"
            return EdgedError(Code.NOT_RUNNING, f"edged does not answer on {path}", hint)
    return EdgedError(Code.NOT_RUNNING, f"{path} cannot be connected to: {error.strerror}", start_hint)


def _denied(path: Path) -> EdgedError:
    """Who may connect: the group of the first folder on the way, or of the socket, that shuts us out."""
    barrier = next((each for each in reversed(path.parents) if not _may(each, os.X_OK)), path)
    try:
        found = barrier.stat()
    except OSError:
        return EdgedError(Code.NOT_PERMITTED, f"{path} may not be used by you", "try again with sudo")
    entry = 0o020 if barrier == path else 0o010
    what = f"you may not connect to {path}"
    if not found.st_gid or not found.st_mode & entry:
        only = "it" if barrier == path else barrier
        return EdgedError(Code.NOT_PERMITTED, f"{what}: {only} is {_user(found.st_uid)}'s alone", "try with sudo")
    try:
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        hint = "try with sudo, or give the folder a group that has you in it"
        return EdgedError(Code.NOT_PERMITTED, f"{what}: only the group {found.st_gid} may, which has no name", hint)
    what += f": only the group {group.gr_name} may"
    if _user(os.geteuid()) in group.gr_mem:
        hint = "you were put into it after this session began: log in again"
    else:
        hint = f"join it with `sudo usermod -aG {group.gr_name} $USER` and log in again, or try with sudo"
    return EdgedError(Code.NOT_PERMITTED, what, hint)


def _may(path: Path, how: int) -> bool:
    return os.access(path, how, effective_ids=True)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
