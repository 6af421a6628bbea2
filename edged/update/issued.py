"""The newest signed time that was seen, `x-edged-issued`, and the keys that signed it; it lies beside the metadata."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from edged import durable

# No metadata itself, so not called *.json.
_NAME = "issued"
_MAX_BYTES = 1024 * 1024


class Issued(msgspec.Struct, frozen=True):
    """The newest issue time seen, and the ids of the keys that signed it."""

    at: datetime
    keys: tuple[str, ...]


class _Role(msgspec.Struct, frozen=True):
    keyids: tuple[str, ...]


class _Root(msgspec.Struct, frozen=True):
    roles: dict[str, _Role]


class _RootFile(msgspec.Struct, frozen=True):
    signed: _Root


def recall(folder: Path) -> Issued | None:
    """What was kept; None: nothing, or it is damaged: the timestamp that is kept beside it tells the same."""
    found: Issued | None = _read(folder / _NAME, Issued)
    return found


def keep(folder: Path, issued: Issued) -> None:
    """Keeps it. Raises OSError."""
    durable.write(folder / _NAME, msgspec.json.encode(issued))


def known(folder: Path) -> datetime | None:
    """The newest signed time, while the root that the fetcher accepted last still names one of the keys."""
    found, root = recall(folder), _read(folder / "root.json", _RootFile)
    if found is None or root is None or found.at.tzinfo is None:
        return None
    role = root.signed.roles.get("timestamp")
    return found.at if role is not None and set(role.keyids) & set(found.keys) else None


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
