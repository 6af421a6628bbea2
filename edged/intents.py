"""What a command asks of this device: telemetry hands these on, and whoever can carries them out."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edged.types import ModelName

Revision = Annotated[int, Meta(ge=1, le=2**53)]


LogLevel = Literal["debug", "info", "warning", "error"]


class _Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="command"):
    """One command's arguments."""


class Refresh(_Intent, frozen=True, tag="refresh"):
    """Look at the repository now."""


class Report(_Intent, frozen=True, tag="report"):
    """Send what is known now, and not at the end of the hour; `fine`: windows as they were closed, not merged."""

    fine: bool = False


class Install(_Intent, frozen=True, tag="install"):
    """Run this revision on this device, whatever the plan says, until it is unpinned."""

    model: ModelName
    revision: Revision


class RollBack(_Intent, frozen=True, tag="rollback"):
    """Go back to a revision; 0: the one before."""

    model: ModelName
    revision: Annotated[int, Meta(ge=0, le=2**53)] = 0


class Pin(_Intent, frozen=True, tag="pin"):
    """Stay at this revision."""

    model: ModelName
    revision: Revision


class Unpin(_Intent, frozen=True, tag="unpin"):
    """Follow the plan again."""

    model: ModelName


class Hold(_Intent, frozen=True, tag="hold"):
    """No route of this model flips for so long."""

    model: ModelName
    seconds: Annotated[int, Meta(ge=1, le=86_400)]


class Release(_Intent, frozen=True, tag="release"):
    """Ends a hold, or lets what is quarantined be tried again."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]


class RestartModel(_Intent, frozen=True, tag="restart_model"):
    """End this model's worker and start another."""

    model: ModelName


class Diagnostics(_Intent, frozen=True, tag="diagnostics"):
    """Status, recent events and settings, without secrets."""


class SetLogLevel(_Intent, frozen=True, tag="set_log_level"):
    """Log so much until the next start or reload."""

    level: LogLevel


class OsStatus(_Intent, frozen=True, tag="os_status"):
    """Which image runs, and which would after a restart."""


class OsUpgrade(_Intent, frozen=True, tag="os_upgrade"):
    """Take the newest image in."""


class OsSwitch(_Intent, frozen=True, tag="os_switch"):
    """Take another image in, and follow it from now on. Best named by its digest: a name alone may be given anew."""

    image: Annotated[str, Meta(pattern=r"^[a-z0-9]([A-Za-z0-9._/:@+-]{0,253}[A-Za-z0-9])?\Z")]


class OsRollBack(_Intent, frozen=True, tag="os_rollback"):
    """Go back to the image before."""


Intent = (
    Refresh
    | Report
    | Install
    | RollBack
    | Pin
    | Unpin
    | Hold
    | Release
    | RestartModel
    | Diagnostics
    | SetLogLevel
    | OsStatus
    | OsUpgrade
    | OsSwitch
    | OsRollBack
)


class Done(msgspec.Struct, frozen=True):
    """What came of carrying one out."""

    text: str = ""
    details: dict[str, object] = {}
