"""The helper's side of the folders of `system.os_requests`.

They are the daemon's own, who may be anybody's by now: whatever is done there is done as that user, nothing is waited
for, and what is not a small file is thrown away.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from edged import clock, durable, inside
from edged.system.os_requests import (
    MAX_REQUEST_BYTES,
    MOST_REQUESTS,
    MOST_RESULTS,
    NONCE,
    REQUESTS,
    RESULTS,
    STATUS,
    OsResult,
    OsStatus,
)
from edged.system.ownership import as_owner_of

# What the daemon writes comes under such names; while it is being written, its name begins with a dot, and such files
# start nobody: systemd leaves hidden ones out of DirectoryNotEmpty=.
_NAME = re.compile(rf"({NONCE.pattern})\.json")
# What has been written for so long is left of a daemon that was killed.
_STALE_S = 60.0
# So many files are looked at in a run; the daemon lets fewer wait.
_MOST_FILES = 1024


class Request(msgspec.Struct, frozen=True):
    """What lay in the folder; `data` is cut one byte after what a command may have."""

    name: str
    data: bytes


class Mailbox:
    """The daemon's two folders."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._requests = state / REQUESTS
        self._results = state / RESULTS

    def requests(self) -> list[Request]:
        """Some of what waits, oldest first; it lies there until it is taken. What is no request is thrown away."""
        with contextlib.suppress(OSError), as_owner_of(self._state):
            return list(self._look())
        return []

    def take(self, request: Request) -> bool:
        """Whether this has taken it: what was withdrawn meanwhile, or cannot be taken, is not carried out."""
        with contextlib.suppress(OSError), as_owner_of(self._state):
            (self._requests / f"{request.name}.json").unlink()
            return True
        return False

    def _look(self) -> Iterator[Request]:
        with os.scandir(self._requests) as found:
            entries = sorted(_dated(itertools.islice(found, _MOST_FILES)), key=lambda one: one[0])
        self._sweep([(at_s, entry) for at_s, entry in entries if entry.name.startswith(".")])
        waiting = [entry for _, entry in entries if not entry.name.startswith(".")]
        for entry in waiting[:MOST_REQUESTS]:
            named = _NAME.fullmatch(entry.name)
            data = self._read(entry.name) if named else None
            if named and data is not None:
                yield Request(named[1], data)
            else:
                self._remove(entry)

    def _sweep(self, hidden: list[tuple[float, os.DirEntry[str]]]) -> None:
        now_s = clock.wall().timestamp()
        for at_s, entry in hidden:
            if abs(now_s - at_s) > _STALE_S:  # either way: the clock may be behind what it was at the writing
                self._remove(entry)

    def _read(self, name: str) -> bytes | None:
        try:
            descriptor = inside.open_regular(self._requests, name)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            return file.read(MAX_REQUEST_BYTES + 1)

    def _remove(self, entry: os.DirEntry[str]) -> None:
        path = self._requests / entry.name
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                path.rmdir()
            else:
                path.unlink()

    def answer(self, result: OsResult) -> None:
        """Leaves what became of a command. Raises OSError."""
        with as_owner_of(self._state):
            self._results.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(self._results / f"{result.nonce}.json", msgspec.json.encode(result), 0o644)
            kept = sorted(self._results.glob("*.json"), key=lambda path: path.lstat().st_mtime_ns)
            for old in kept[:-MOST_RESULTS]:
                old.unlink(missing_ok=True)

    def tell_status(self, status: OsStatus) -> None:
        """Leaves which images there are. Raises OSError."""
        with as_owner_of(self._state):
            path = self._state / STATUS
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(path, msgspec.json.encode(status), 0o644)


def _dated(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[float, os.DirEntry[str]]]:
    """When each was written; what was withdrawn meanwhile is left out."""
    for entry in entries:
        try:
            at_s = entry.stat(follow_symlinks=False).st_mtime
        except OSError:
            continue
        yield at_s, entry
