"""How long recent requests took, in fixed memory. Pure.

Two histograms take turns: one is filled for a window, then becomes the one before; so what is asked covers the last
one to two windows. Buckets grow with the value, so that a quantile is off by at most a sixteenth of itself.
"""

from __future__ import annotations

# Buckets per power of two, and of these how many bits of the value tell them apart.
_BITS = 3
_PER_OCTAVE = 1 << _BITS

# Values from 2⁴⁰ ns on, 18 minutes, are counted as that.
_OCTAVES = 40
_BUCKETS = (_OCTAVES - _BITS + 1) * _PER_OCTAVE

WINDOW_NS = 30 * 1_000_000_000


def _bucket(value: int) -> int:
    """Values below 8 have a bucket each; above, the highest bit and the three after it say which."""
    octave = value.bit_length() - _BITS - 1
    if octave <= 0:
        return max(value, 0)
    return min((octave << _BITS) + (value >> octave), _BUCKETS - 1)


def _middle(bucket: int) -> int:
    """What a value in a bucket is taken for."""
    if bucket < 2 * _PER_OCTAVE:
        return bucket
    octave = (bucket >> _BITS) - 1
    return ((bucket & (_PER_OCTAVE - 1)) + _PER_OCTAVE << octave) + (1 << octave >> 1)


class Recent:
    """Durations of the last 30 to 60 seconds, in nanoseconds; times are of a monotonic clock, in nanoseconds."""

    def __init__(self) -> None:
        self._now = [0] * _BUCKETS
        self._before = [0] * _BUCKETS
        self._turn = 0

    def add(self, took_ns: int, now_ns: int) -> None:
        """Counts one duration."""
        if now_ns // WINDOW_NS != self._turn:
            self._turn_to(now_ns // WINDOW_NS)
        self._now[_bucket(took_ns)] += 1

    def quantiles(self, now_ns: int, *wanted: float) -> tuple[int, ...]:
        """Those durations, in nanoseconds, below which `wanted` shares (0 to 1) of all lie; zeros where there is none.

        Of n durations in order, the share q is the one at place ⌈q·n⌉, the first being 1: nearest rank.
        """
        self._turn_to(now_ns // WINDOW_NS)
        counts = [one + other for one, other in zip(self._now, self._before, strict=True)]
        total = sum(counts)
        return tuple(_at_rank(counts, max(-(-int(share * total * 1_000_000) // 1_000_000), 1)) for share in wanted)

    def _turn_to(self, turn: int) -> None:
        if turn == self._turn:
            return
        self._before = self._now if turn == self._turn + 1 else [0] * _BUCKETS
        self._now = [0] * _BUCKETS
        self._turn = turn


def _at_rank(counts: list[int], rank: int) -> int:
    for bucket, count in enumerate(counts):
        rank -= count
        if rank <= 0 and count:
            return _middle(bucket)
    return 0
