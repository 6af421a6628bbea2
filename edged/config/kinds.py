"""What values of settings may be, the same in each table."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

NAME = r"^[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?\Z"
_PARTS = r"(/(?!\.{1,2}(/|\Z))[^/\x00-\x1f\x7f]+)+/?"

HardwareClass = Annotated[
    str,
    Meta(
        pattern=NAME,
        extra={"allowed": "1 to 64 of a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit"},
    ),
]
AbsolutePath = Annotated[
    str,
    Meta(
        pattern=rf"^{_PARTS}\Z",
        max_length=4095,
        extra={"allowed": "an absolute path, no part of it empty, '.' or '..'", "path": True},
    ),
]
OptionalPath = Annotated[
    str,
    Meta(
        pattern=rf"^({_PARTS})?\Z",
        max_length=4095,
        extra={"allowed": "\"\" for none, or an absolute path, no part of it empty, '.' or '..'", "path": True},
    ),
]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the settings."""
