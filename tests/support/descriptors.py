"""What a process holds open."""

from __future__ import annotations

import contextlib
from pathlib import Path


def held(pid: int | str = "self") -> dict[int, str]:
    """What each open descriptor of a process is."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that read the folder
            found[int(path.name)] = str(path.readlink())
    return found


def count(part: str = "", pid: int | str = "self") -> int:
    """How many descriptors are something that holds `part` in its name, such as `edged-arena` or `[pidfd]`."""
    return sum(part in target for target in held(pid).values())


def there(pid: int) -> bool:
    """Whether there is such a process, also while it is a zombie."""
    return Path(f"/proc/{pid}").exists()
