"""The settings of the last good start, remembered for a start on which the files are wrong."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import msgspec

from edged import durable
from edged.config.rules import objections
from edged.config.settings import FIELDS, Settings

NAME = "settings.last-good.json"
MAX_BYTES = 64 * 1024


class _Record(msgspec.Struct, frozen=True):
    """What the file holds. A later release may add keys to both; it gives neither another meaning."""

    schema: int
    settings: dict[str, dict[str, Any]]


def remember(path: Path, settings: Settings) -> bool:
    """Keeps `settings` at `path` for `recall`; says whether it had to write. Raises OSError.

    They are kept whole, defaults included and paths as written (not `under` a root). What is there already is not
    written again: starts are frequent and flash wears.
    """
    content = msgspec.json.encode({"schema": 1, "settings": msgspec.to_builtins(settings)})
    if _content(path) == content:
        return False
    durable.write(path, content, 0o600)
    return True


def recall(path: Path, root: PurePath = Path("/")) -> Settings | None:
    """The settings remembered at `path`; None when there are none that can be read and are valid below `root`.

    Keys that this release does not know are left out: after the system was rolled back, what a newer release wrote is
    still of use.
    """
    content = _content(path)
    if content is None:
        return None
    try:
        record = msgspec.json.decode(content, type=_Record)
        settings = msgspec.convert(_known(record.settings), Settings)
    except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: not UTF-8
        return None
    if record.schema != 1 or any(objections(settings, root)):
        return None
    return settings


def _known(data: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    for field in FIELDS:
        if field.name in data.get(field.table, {}):
            known.setdefault(field.table, {})[field.name] = data[field.table][field.name]
    return known


def _content(path: Path) -> bytes | None:
    """The whole of a file; None when there is none of a size that `remember` writes."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError:
        return None
    return content if len(content) <= MAX_BYTES else None
