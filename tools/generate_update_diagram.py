"""Writes docs/update-machine.md from edged/update/machine.py; with --check, only says whether it is as it should be."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

from edged.update.machine import ASIDE, REASONS, TABLE, Effect, Event, Phase
from edged.update.reasons import QUARANTINES

TARGET = Path(__file__).parent.parent / "docs" / "update-machine.md"

# What leads nowhere else.
_STAYS = (Event.DEFERRED, Event.RESUMED, Event.STARTED, *ASIDE)


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The update machine"
    yield ""
    yield "Made by tools/generate_update_diagram.py from the table that edged steps by; there is one for each model."
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield "    [*] --> idle"
    for (phase, event), rule in TABLE.items():
        if event not in _STAYS:
            yield f"    {phase} --> {rule.phase}: {event}"
    yield "```"
    yield ""
    yield "Any phase that works may be *deferred*, by pressure, a maintenance window or a hold, and goes on when it is"
    yield "*resumed*."
    yield ""
    yield "| phase | event | next phase | what is done |"
    yield "|---|---|---|---|"
    for (phase, event), rule in TABLE.items():
        yield f"| {phase} | {event} | {rule.phase} | {', '.join(_words(each) for each in rule.effects)} |"
    yield ""
    yield "## Why an update comes to nothing"
    yield ""
    yield "What is quarantined is not tried again here with the same engine, driver and OS image, until it is released."
    yield ""
    yield "| reason | in phases | quarantined |"
    yield "|---|---|---|"
    for reason in sorted(set().union(*REASONS.values())):
        phases = ", ".join(phase for phase in Phase if reason in REASONS.get(phase, ()))
        yield f"| `{reason}` | {phases} | {'yes' if reason in QUARANTINES else 'no'} |"


def _words(effect: Effect) -> str:
    return effect.replace("_", " ")


def main() -> int:
    wanted = page()
    if sys.argv[1:] != ["--check"]:
        TARGET.write_text(wanted, encoding="utf-8")
        return 0
    found = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    sys.stdout.writelines(
        difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), "docs/update-machine.md", "the table")
    )
    return int(found != wanted)


if __name__ == "__main__":
    sys.exit(main())
