"""Who may command, by the root of trust of the image: verified anew from what the daemon's fetcher has kept.

The daemon keeps that metadata and could write what it likes there; it could not sign it. Versions that were seen once
are remembered in root's own folder, so nothing older is believed, and the metadata's expiry holds.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from edged import clock
from edged.config.settings import Settings
from edged.errors import Code, EdgedError
from edged.system.ownership import as_owner_of
from edged.types import Operators
from edged.update import issued
from edged.update.kept import URL, Kept
from edged.update.repository import MAX_OPERATORS_BYTES, OPERATORS_NAME
from edged.update.trusted import Trusted


def time(folder: Path, now: datetime, build_time: datetime | None) -> datetime:
    """What time it is at least, by what was seen signed in earlier runs; `folder` is root's own."""
    return clock.trusted(now, build_time, issued.known(folder))


def operators(
    settings: Settings, folder: Path, now: datetime, build_time: datetime | None
) -> tuple[Operators | None, datetime]:
    """Who may command, None where nobody may; and the time by what has been seen signed.

    `settings` have their paths under the root; `folder` is root's own; `build_time` is when the image was built.
    Raises EdgedError with the reason.
    """
    state = Path(settings.paths.state)
    try:
        root = Path(settings.update.root).read_bytes()
    except FileNotFoundError:
        return None, time(folder, now, build_time)
    except OSError as error:
        found = f"{settings.update.root} cannot be read: {error.strerror}"
        raise EdgedError(Code.SIGNATURE_INVALID, found, "put the fleet's root of trust there") from error
    kept = Kept(state / "update/metadata", partial(as_owner_of, state))
    trusted = Trusted(folder, f"{URL}metadata", kept, root=root, system_time=now, build_time=build_time)
    trusted.refresh()
    raw = trusted.target(OPERATORS_NAME, f"{URL}targets", MAX_OPERATORS_BYTES)
    if raw is None:
        return None, trusted.now
    try:
        return msgspec.json.decode(raw, type=Operators), trusted.now
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        found = f"{OPERATORS_NAME}: {error}"
        raise EdgedError(Code.REPOSITORY_INVALID, found, "publish it anew") from error
