"""The usual answer, encoded for all members of a batch at once instead of one by one. Child's end only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.worker.arena import Window
from edged.worker.messages import Failed, Infer, MemberAnswer, OutputPart


def encode_whole(
    asked: Infer, outputs: Sequence[NDArray[Any]], rows: Sequence[int], arena: Window
) -> tuple[list[MemberAnswer | Failed], tuple[bool, ...], list[memoryview | bytes]]:
    """The members' heads; for each output whether it was put into its room; what is left for the body.

    `outputs` are of fixed-size elements and hold the rows of all members, one after the other, along axis 0.
    """
    flat = [np.ascontiguousarray(output).reshape(-1).view(np.uint8).data for output in outputs]
    total = sum(rows)
    row_bytes = [len(data) // total for data in flat]
    heads: dict[int, MemberAnswer | Failed] = {}
    for count in rows:
        if count not in heads:
            shapes = zip(outputs, row_bytes, strict=True)
            heads[count] = MemberAnswer(tuple([OutputPart((count, *a.shape[1:]), count * each) for a, each in shapes]))
    placed = []
    left = []
    for data, each, (offset, room) in zip(flat, row_bytes, asked.rooms, strict=True):
        fits = 0 < len(data) <= room
        placed.append(fits)
        if fits:
            arena.view(offset, len(data))[:] = data
        else:
            left.append((data, each))
    bodies: list[memoryview | bytes] = []
    if len(left) == 1:
        bodies.append(left[0][0])
    elif left:
        at = 0
        for count in rows:
            bodies += [data[at * each : (at + count) * each] for data, each in left]
            at += count
    return [heads[count] for count in rows], tuple(placed), bodies
