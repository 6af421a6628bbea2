"""A repository's metadata as a fetcher has kept it, given out under the names that the repository has it under.

Whoever does not trust the fetcher verifies it again from what was kept, without a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edged.update.transport import Terms, Transport, read_file

URL = "kept:///"

# Version or digest before the name: consistent snapshots (The Update Framework, section 6.2).
_PREFIX = re.compile(r"^([0-9]+|[0-9a-f]{64}|[0-9a-f]{128})\.")


class Kept(Transport):
    """Gives what lies in the folder of a `Trusted`."""

    def __init__(self, folder: Path, opening: Callable[[], AbstractContextManager[None]]) -> None:
        """`folder`: the one that the fetcher's `Trusted` has. Each file is opened within `opening()`."""
        super().__init__(Terms())
        self._folder = folder
        self._opening = opening

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, name = unquote(urlsplit(url).path).lstrip("/").partition("/")
        bare = _PREFIX.sub("", name)
        if kind == "targets":
            path = self._folder / "kept" / bare
        else:
            path = self._folder / "root_history" / name if bare == "root.json" else self._folder / bare
        with self._opening():
            return read_file(path, url)
