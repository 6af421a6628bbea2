"""What differs between the settings in force and those read again, and which of it applies without a restart."""

from __future__ import annotations

import msgspec
from msgspec import structs

from edged.config.settings import FIELDS, Settings


class Change(msgspec.Struct, frozen=True):
    """A key whose value differs."""

    key: str
    old: bool | int | float | str
    new: bool | int | float | str
    applies: bool
    """At once; otherwise when the daemon starts next."""


def changes(old: Settings, new: Settings) -> tuple[Change, ...]:
    """What differs in `new`, in the order of the reference."""
    return tuple(
        Change(field.key, field.of(old), field.of(new), field.reload)
        for field in FIELDS
        if field.of(old) != field.of(new)
    )


def applied(old: Settings, new: Settings) -> Settings:
    """`old` with the changes to `new` that apply at once: what is in force after a reload."""
    tables: dict[str, dict[str, object]] = {}
    for field in FIELDS:
        if field.reload:
            tables.setdefault(field.table, {})[field.name] = field.of(new)
    parts = {table: structs.replace(getattr(old, table), **values) for table, values in tables.items()}
    return structs.replace(old, **parts)
