"""Which windows of a spool become one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

import msgspec

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

# A window of grade 0 is as it was closed; of grade 1 at most an hour; of grade 2 at most a day; and a little more where
# the ends came a little late.
SPANS_MS = (HOUR_MS * 51 // 50, DAY_MS * 51 // 50)
MOST = 64
"""Rows merged at a time."""


class Row(msgspec.Struct, frozen=True):
    """A window in the spool, its contents apart."""

    last: int
    """Its number; of a merged one, that of its latest part."""
    grade: int
    span_ms: int
    sent: bool
    """It was handed out: whoever got it may have it, so it never changes again."""


def run_to_merge(rows: Sequence[Row], grade: int) -> list[Row]:
    """The oldest neighbours in `rows`, ordered by number, that are to become one window of `grade_of` them; or none.

    They begin with the first that was not handed out and has `grade`, and fill at most an hour or a day.
    """
    start = next((place for place, row in enumerate(rows) if row.grade == grade and not row.sent), len(rows))
    found: list[Row] = []
    span_ms = 0
    for row in takewhile(lambda row: row.grade == grade and not row.sent, rows[start : start + MOST]):
        if found and span_ms + row.span_ms > SPANS_MS[grade]:
            break
        found.append(row)
        span_ms += row.span_ms
    return found if len(found) > 1 else []


def grade_of(run: Sequence[Row], grade: int) -> int:
    """What the one window that `run` becomes has: `grade` still, where rows were too many and more may belong to it."""
    more = len(run) == MOST and sum(row.span_ms for row in run) + run[-1].span_ms <= SPANS_MS[grade]
    return grade if more else grade + 1


def pair_to_merge(rows: Sequence[Row]) -> list[Row]:
    """The two oldest neighbours that may become one whatever they cover, where no finer ones are left; or none."""
    for one, other in pairwise(rows):
        if not one.sent and not other.sent:
            return [one, other]
    return []
