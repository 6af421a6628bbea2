"""Where the tensors of one batch lie: in the arena where they are large, else in the frames of the link."""

from __future__ import annotations

from collections.abc import Sequence

from edged.errors import Code, EdgedError
from edged.worker.arena import LARGE_BYTES, Arena
from edged.worker.messages import Answered, Failed, Infer, MemberAnswer

Buffer = bytes | memoryview

# The outputs of one member in the order asked for, or why it has none.
Parts = list[memoryview] | Failed

# What is left to say of an output that went into a region.
_NOTHING = memoryview(b"")


def put(arena: Arena, contents: Sequence[Buffer]) -> int:
    """Copies the contents of a large input into the arena; -1 where it is to go by the link."""
    size = sum(map(len, contents))
    offset = arena.slots.take(size) if size >= LARGE_BYTES else -1
    at = offset
    for part in contents if offset >= 0 else ():
        arena.view[at : at + len(part)] = part
        at += len(part)
    return offset


def room(arena: Arena, size: int) -> tuple[int, int]:
    """Takes room for a large output: where, and how many bytes; (-1, 0) where it is to come by the link."""
    offset = arena.slots.take(size) if size >= LARGE_BYTES else -1
    return (offset, size) if offset >= 0 else (-1, 0)


def release(arena: Arena, asked: Infer) -> None:
    """Gives back what `put` and `room` took, once the worker has done with it."""
    for offset in (*asked.slots, *(offset for offset, _ in asked.rooms)):
        if offset >= 0:
            arena.slots.release(offset)


def find(arena: Arena, asked: Infer, answered: Answered, reply: memoryview) -> list[Parts]:
    """Where each member's outputs lie. Raises EdgedError when they would lie beyond what the worker was given."""
    at = 0
    in_room = [offset for offset, _ in asked.rooms]
    ends = [offset + size for offset, size in asked.rooms]
    found: list[Parts] = []
    nowhere = (None,) * len(asked.outputs)
    for index, member in enumerate(answered.members):
        if not isinstance(member, MemberAnswer):
            found.append(member)
            continue
        parts = []
        targets = (asked.targets and asked.targets[index]) or nowhere
        for position, output in enumerate(member.outputs):
            if targets[position] is not None:
                parts.append(_NOTHING)
            elif answered.placed[position]:
                start, end = in_room[position], ends[position]
                in_room[position] += output.size
                parts.append(_part(arena.view, start, output.size, end))
            else:
                parts.append(_part(reply, at, output.size, len(reply)))
                at += output.size
        found.append(parts)
    return found


def _part(of: memoryview, start: int, size: int, end: int) -> memoryview:
    if not 0 <= size <= end - start:
        raise EdgedError(Code.INTERNAL, "a worker's answer is larger than what it came in")
    return of[start : start + size]
