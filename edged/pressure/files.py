"""The small files of /proc and /sys: one value or one table each, gone or unreadable at any time."""

from __future__ import annotations

import os
import re
from pathlib import Path

# No file read here is longer; a device's driver is believed no further.
_MAX_BYTES = 64 * 1024


def text(path: str | Path) -> str | None:
    """What it holds, or None."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        return os.read(descriptor, _MAX_BYTES).decode(errors="replace").strip()
    except OSError:  # as EAGAIN and EIO of a sensor that does not answer
        return None
    finally:
        os.close(descriptor)


def number(path: str | Path, per: int = 1) -> float | None:
    """A whole number of which `per` make one of what is wanted, or None."""
    try:
        return int(text(path) or "", 10) / per
    except ValueError:
        return None


def table(path: str | Path) -> dict[str, int]:
    """Lines of a name and a whole number, as memory.stat has them; a line that is none is left out."""
    found = {}
    for line in (text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if value.isdecimal():
            found[name] = int(value)
    return found


def numbered(folder: Path, prefix: str) -> list[Path]:
    """The entries `prefix0`, `prefix1`, … of a folder, in the order of their numbers."""
    try:
        found = [entry for entry in folder.iterdir() if re.fullmatch(prefix + "[0-9]{1,6}", entry.name)]
    except OSError:
        return []
    return sorted(found, key=lambda entry: int(entry.name.removeprefix(prefix)))
