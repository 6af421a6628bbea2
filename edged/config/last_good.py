"""The settings of the last good start, remembered for a start on which the files are wrong."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import msgspec

from edged import durable
from edged.config.rules import objections
from edged.config.settings import FIELDS, Settings

NAME = "settings.last-good.json"
MAX_BYTES = 64 * 1024

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class _Record(msgspec.Struct, frozen=True):
    """What the file holds. A later release may add keys to both; it gives neither another meaning."""

    schema: int
    settings: dict[str, dict[str, Any]]


def place(root: Path, files: Sequence[Path] = ()) -> Path:
    """Where the settings are kept that came from `files` or, where none are given, from those found below `root`.

    The folder is fixed, since what the settings say is in doubt when they are wanted. Each list of files has a record
    of its own: what was tried once with --config is not what the device starts on.
    """
    folder = Path(Settings().under(root).paths.state)
    if not files:
        return folder / NAME
    listed = b"\0".join(os.fsencode(file.absolute()) for file in files)
    return folder / f"settings.last-good.{hashlib.sha256(listed).hexdigest()[:16]}.json"


def remember(path: Path, settings: Settings) -> bool:
    """Keeps `settings` at `path` for `recall`; says whether it had to write. Raises OSError.

    They are kept whole, defaults included and paths as written (not `under` a root). What is there already is not
    written again: starts are frequent and flash wears.
    """
    content = msgspec.json.encode({"schema": 1, "settings": msgspec.to_builtins(settings)})
    if _content(path, os.geteuid()) == content:
        return False
    durable.write(path, content, 0o600)
    return True


def recall(path: Path, root: PurePath = Path("/"), user: int | None = None) -> Settings | None:
    """The settings remembered at `path`; None when there are none that can be read and are valid below `root`.

    A file that another than `user` (the one the daemon runs as; this process's, if not given) or root may have put
    there is not believed. Keys that this release does not know are left out: after the system was rolled back, what a
    newer release wrote is still of use.
    """
    content = _content(path, os.geteuid() if user is None else user)
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


def _content(path: Path, user: int) -> bytes | None:
    """The whole of a file; None when there is none such as `remember` writes, in size, kind, owner and mode."""
    try:
        with open(path, "rb", opener=_open_itself) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in (user, 0) or found.st_mode & _WRITABLE_BY_OTHERS:
                return None
            content = file.read(MAX_BYTES + 1)
    except OSError:
        return None
    return content if len(content) <= MAX_BYTES else None


def _open_itself(path: str, flags: int) -> int:
    """Opens what has that name and not what a link there leads to, and waits for nobody."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
