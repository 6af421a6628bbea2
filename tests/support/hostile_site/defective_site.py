"""Defects in edged, for a daemon that has to go on with them; imported as `hostile_site` is.

A daemon's status line ends when `STATUS_DEFECT` is a file in its working folder, its reload fails when `RELOAD_DEFECT`
is: both by an exception that nobody expects.
"""

from pathlib import Path

from edged.config import reload
from edged.system.notify import Notifier

STATUS_DEFECT, RELOAD_DEFECT = "status-defect", "reload-defect"

_status, _changes = Notifier.status, reload.changes


def _planted(name: str) -> None:
    if Path(name).exists():
        raise RuntimeError(f"planted: {name}")


def status(self: Notifier, text: str) -> None:
    """As it is, but for the defect."""
    _planted(STATUS_DEFECT)
    _status(self, text)


def changes(*settings: object) -> object:
    """As it is, but for the defect."""
    _planted(RELOAD_DEFECT)
    return _changes(*settings)


Notifier.status = status
reload.changes = changes
