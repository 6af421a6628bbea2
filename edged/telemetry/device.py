"""What is read of the device itself when a window ends, below a root. What cannot be read is absent."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edged.facts import Reading


def readings(root: Path, state: Path) -> list[Reading]:
    """Memory that is available, and room on the file system of the state folder."""
    found = []
    try:
        meminfo = (root / "proc/meminfo").read_text(errors="replace")
    except OSError:
        meminfo = ""
    if available := re.search(r"^MemAvailable: *([0-9]+) kB", meminfo, re.MULTILINE):
        found.append(Reading("memory_available_bytes", int(available[1]) * 1024))
    try:
        status = os.statvfs(state)
    except OSError:
        return found
    return [*found, Reading("storage_free_bytes", status.f_bavail * status.f_frsize)]


def os_name(root: Path) -> str:
    """The operating system by os-release(5): its image where it has one, else its name; "" where it does not say."""
    said = {}
    for path in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = (root / path).read_text(errors="replace")[:16384]
        except OSError:
            continue
        said = {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in text.splitlines())}
        break
    image = " ".join(filter(None, (said.get("IMAGE_ID"), said.get("IMAGE_VERSION"))))
    return image or said.get("PRETTY_NAME", "")
