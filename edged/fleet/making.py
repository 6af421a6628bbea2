"""A new fleet's folder: there as a whole, or not at all.

`.making` stands in it from before its first file until all of it is on the disk. What a power cut leaves is told by
that from a fleet: no command works on it, and nobody can have been given a key of it, so the next `init` empties it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edged import durable
from edged.errors import Code, EdgedError
from edged.fleet.home import MAKING_NAME, FleetSettings, Home, alone, write_settings
from edged.models import files

_MADE = re.compile(
    r"\.making|fleet\.toml|root\.json|keys/[a-z]+-[0-9a-f]{16}\.pem|(pending|repository)/(.+/)?[^/]+\.json", re.ASCII
)
_BEING_WRITTEN = re.compile(r"\.([^/]+)\.[0-9a-f]{8}$", re.ASCII)  # the temporary name that durable.py gives a file


@contextmanager
def making(folder: Path, settings: FleetSettings) -> Iterator[Home]:
    """A new fleet's folder, locked while it is filled; where that fails nothing of it stays.

    Raises EdgedError where something else lies there already, or another command works there.
    """
    marker = folder / MAKING_NAME
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        files.make_folder(folder)
        with alone(folder):
            if not marker.exists() and any(folder.iterdir()):
                raise EdgedError(Code.REPOSITORY_INVALID, f"{folder}: is not empty", "name a new folder")
            try:
                marker.touch()
                durable.sync_folder(folder)
                _empty(folder)
                for name, mode in (("keys", 0o700), ("pending", 0o755), ("repository", 0o755)):
                    (folder / name).mkdir(mode=mode)
                write_settings(folder, settings)
                yield Home(folder, made=False)
                _sync_folders(folder)
            except BaseException:
                with suppress(OSError, EdgedError):  # what stays has its mark, and goes the next time
                    _empty(folder)
                    marker.unlink()
                raise
            marker.unlink()
            durable.sync_folder(folder)
    except BaseException:
        for each in new:
            with suppress(OSError):
                each.rmdir()
        raise


def _empty(folder: Path) -> None:
    """Removes what was made there, but the mark of it. Raises EdgedError where a file of somebody else lies there."""
    for path in sorted(folder.rglob("*")):
        named = _BEING_WRITTEN.sub(r"\1", str(path.relative_to(folder)))
        if not path.is_dir() and not _MADE.fullmatch(named):
            found = f"{path}: lies in what a `fleet init` that did not end left, and is none of it"
            raise EdgedError(Code.REPOSITORY_INVALID, found, "move it elsewhere, and run it again")
    for path in list(folder.iterdir()):
        if path.name != MAKING_NAME:
            files.remove_tree(path)
    durable.sync_folder(folder)


def _sync_folders(folder: Path) -> None:
    for at, _, _ in os.walk(folder):
        durable.sync_folder(Path(at))
