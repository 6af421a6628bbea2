"""The small files of /proc and /sys: one value or one table each, gone or unreadable at any time."""

from __future__ import annotations

import os
import re
from pathlib import Path

# No file read here is longer; a device's driver is believed no further.
_MAX_BYTES = 64 * 1024
# No kernel counts in more digits.
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")


def text(path: str | Path) -> str | None:
    """What it holds, as far as it is believed, or None."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        return _all(descriptor).decode(errors="replace").strip()
    except OSError:  # as EAGAIN and EIO of a sensor that does not answer
        return None
    finally:
        os.close(descriptor)


def _all(descriptor: int) -> bytes:
    """One read gives about a page of what the kernel puts together line by line, as most of /proc (seq_file)."""
    found = b""
    while len(found) < _MAX_BYTES and (more := os.read(descriptor, _MAX_BYTES - len(found))):
        found += more
    return found


def exists(path: Path) -> bool:
    """Whether it is there; what may not be looked at, or fails, is not."""
    try:
        return path.exists()
    except OSError:
        return False


def whole(text: str) -> int | None:
    """A whole number, or None for what is none that a kernel writes."""
    return int(text) if _WHOLE.fullmatch(text) else None


def number(path: str | Path, per: int = 1) -> float | None:
    """A whole number of which `per` make one of what is wanted, or None."""
    found = whole(text(path) or "")
    return None if found is None else found / per


def table(path: str | Path) -> dict[str, int]:
    """Lines of a name and a whole number, as memory.stat has them; a line that is none is left out."""
    found = {}
    for line in (text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if (count := whole(value)) is not None:
            found[name] = count
    return found


def numbered(folder: Path, prefix: str) -> list[Path]:
    """The entries `prefix0`, `prefix1`, … of a folder, in the order of their numbers."""
    try:
        found = [entry for entry in folder.iterdir() if re.fullmatch(prefix + "[0-9]{1,6}", entry.name)]
    except OSError:
        return []
    return sorted(found, key=lambda entry: int(entry.name.removeprefix(prefix)))
