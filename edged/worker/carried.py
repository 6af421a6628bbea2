"""Where the contents of a batch lie: in the arena, or in the body of its message."""

from __future__ import annotations

from edged.worker.arena import Window
from edged.worker.messages import Infer, InputPart


def contents(asked: Infer, body: memoryview, arena: Window) -> list[memoryview]:
    """Each input's contents of all members, from the arena or the body; regions apart."""
    found = []
    at = 0
    for position, slot in enumerate(asked.slots):
        taken = sum([size(member[position]) for member in asked.members])
        if slot >= 0:
            found.append(arena.view(slot, taken))
        else:
            found.append(body[at : at + taken])
            at += taken
    return found


def size(part: InputPart) -> int:
    """What a part takes in the body or the arena."""
    return 0 if part.region else part.size
