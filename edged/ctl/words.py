"""Numbers, times, names and text from elsewhere, as people read them."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Sequence
from datetime import datetime

_TABS = re.compile(r"\t+")
_LINE_ENDS = re.compile(r"[\n\r\v\f]+")


def safe(text: str) -> str:
    """`text` as one line that cannot steer a terminal: what is not printable is shown escaped.

    What stood on lines of their own is set apart by semicolons, but after a line that ends in punctuation already.
    """
    line, *others = _LINE_ENDS.split(_TABS.sub(" ", text))
    for other in filter(None, map(str.strip, others)):
        line = f"{line.rstrip()}{' ' if line.rstrip()[-1:] in ('', *':;,') else '; '}{other}"
    return line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


def cut(text: str, length: int) -> str:
    """`text` with at most `length` letters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def duration(seconds: float) -> str:
    """How long something took or has gone on: `0.08 s`, `7.5 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{max(seconds, 0):.{2 if seconds < 1 else 1}f} s"
    whole = round(seconds)
    for size, big, small_size, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // small_size} {small}"
    return f"{whole} s"


def ago(then: datetime, now: datetime) -> str:
    """How long ago something was, in its largest unit; the device's clock may have been set back since."""
    seconds = int((now - then).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "just now"


def mib(count: int) -> str:
    """Bytes as whole MiB; `-` for none, which stands for unknown."""
    return f"{count / 2**20:.0f}" if count else "-"


def size(count: int) -> str:
    """Bytes in the unit that suits them."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def short_digest(digest: str) -> str:
    """Enough of a digest to tell releases apart."""
    return digest[:8] or "-"


def user(number: int) -> str:
    """The name of a user, where this device knows it."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group(number: int) -> str:
    """The name of a group, where this device knows it."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def count(number: int, one: str, many: str = "") -> str:
    """`1 file`, `3 files`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """Names for a message, made safe; `none` where there are none."""
    return ", ".join(safe(name) for name in names) or "none"
