"""Writes docs/settings.md from edged/config/settings.py; with --check, only says whether it is as it should be."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from edged.config.render import reference

TARGET = Path(__file__).parent.parent / "docs" / "settings.md"


def main() -> int:
    wanted = reference()
    if sys.argv[1:] != ["--check"]:
        TARGET.write_text(wanted, encoding="utf-8")
        return 0
    found = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    sys.stdout.writelines(
        difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), "docs/settings.md", "the settings")
    )
    return int(found != wanted)


if __name__ == "__main__":
    sys.exit(main())
