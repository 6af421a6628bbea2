"""Which settings a start runs on: those of the files, else the last good ones, else the defaults to be reachable."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edged.config import last_good
from edged.config.load import load
from edged.config.settings import Settings
from edged.document import DocumentError
from edged.errors import EdgedError


class Origin(msgspec.Struct, frozen=True):
    """Where the settings came from, so that they can be read again."""

    root: Path
    files: tuple[Path, ...]
    unknown: bool = False
    """The files are wrong and no good settings are remembered: the defaults stand in, to be reachable."""

    @property
    def last_good(self) -> Path:
        """Where the last good settings from these files are kept."""
        return last_good.place(self.root, self.files)


def settings_for_start(origin: Origin, *, supervised: bool) -> tuple[Settings, Origin, list[EdgedError]]:
    """The settings to run on, and why they are not those of the files where they are not.

    Under a service manager a daemon comes up whatever the files hold, to be reachable. Raises EdgedError when the files
    are wrong, no good settings are remembered and somebody started it by hand, or a path cannot be used at all.
    """
    try:
        return load(origin.root, origin.files).settings, origin, []
    except DocumentError as error:
        remembered = last_good.recall(origin.last_good, origin.root)
        if remembered is not None:
            return remembered, origin, [error]
        if supervised:
            return Settings(), msgspec.structs.replace(origin, unknown=True), [error]
        raise
