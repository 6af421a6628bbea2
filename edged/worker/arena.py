"""Shared memory between the front and one worker, for tensors too large for the socket.

One file in memory a worker, of fixed size, sparse until it is used, and sealed: neither end can shrink it under the
other, nor grow it. The front alone gives out slots, both for what it sends and for what it expects back, and takes them
back when the worker has answered. When the worker ends the whole arena goes with it, so that no slot is ever given out
again while somebody may still write to it.

The kernel charges each page to the control group of the process that touched it first: what is sent to the front's,
what comes back to the worker's. Where a worker has no group, all that was ever touched counts as the worker's.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from bisect import insort

# Below this a tensor is cheaper through the socket (benchmarks/arena.py).
LARGE_BYTES = 64 * 1024

# Slots begin at whole cache lines, as vector instructions like.
_ALIGNMENT = 64

# fcntl(2), file sealing.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Slots:
    """Which parts of [0, size) are taken. Pure."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        """The offset of a free part of `size` bytes, at least one, taken from now on; -1 when there is none."""
        at = 0
        for start, end in self._taken:
            if start - at >= size:
                break
            at = -(-end // _ALIGNMENT) * _ALIGNMENT
        if at + size > self.size:
            return -1
        insort(self._taken, (at, at + size))
        return at

    def release(self, offset: int) -> None:
        """Gives back the part at `offset`. Raises KeyError when it is not taken."""
        for index, (start, _) in enumerate(self._taken):
            if start == offset:
                del self._taken[index]
                return
        raise KeyError(offset)

    @property
    def taken_bytes(self) -> int:
        """How much is taken."""
        return sum(end - start for start, end in self._taken)


class Arena:
    """The front's end. `descriptor` goes to the worker when it is made."""

    def __init__(self, size: int) -> None:
        """Raises OSError."""
        self.descriptor = os.memfd_create("edged-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
            self._memory = mmap.mmap(self.descriptor, size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.slots = Slots(size)
        self.view = memoryview(self._memory)

    @property
    def used_bytes(self) -> int:
        """Memory that it takes: the pages that were ever written."""
        return os.fstat(self.descriptor).st_blocks * 512

    def close(self) -> None:
        """Gives the memory back; only once the worker has been reaped."""
        os.close(self.descriptor)
        with contextlib.suppress(BufferError):  # somebody still reads a part: it goes when they have done
            self.view.release()
            self._memory.close()


class Window:
    """The worker's end: the arena as it sees it, mapped when it is first needed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._view: memoryview | None = None

    def view(self, offset: int, size: int) -> memoryview:
        """`size` bytes of the arena from `offset`."""
        if self._view is None:
            self._view = memoryview(mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size))
        return self._view[offset : offset + size]
