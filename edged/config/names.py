"""Which paths settings may be read from: what edged logs and answers is UTF-8, and it names them there."""

from __future__ import annotations

import os
from pathlib import Path

from edged.errors import Code, EdgedError

REMEDY = "give it a name in UTF-8, or use a link that has one"


def check(*paths: Path) -> None:
    """Raises EdgedError (settings_invalid) that names the first of `paths` that is not UTF-8."""
    for path in paths:
        if not is_text(path):
            raise EdgedError(Code.SETTINGS_INVALID, f"the path {printable(path)} is not UTF-8", REMEDY)


def is_text(path: Path) -> bool:
    """Whether a path is UTF-8: Python keeps the bytes that are not as lone surrogates, which nothing else takes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: Path) -> str:
    """A path for people, its bytes that are not UTF-8 and what would steer a terminal escaped."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
