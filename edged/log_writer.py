"""Writes the lines of the log in a thread of its own: who logs never waits for who reads."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable

# What may wait to be read; a line has some hundreds of bytes.
_MOST_BYTES = 2**20


class Writer:
    """A text stream for those who only write lines. Of those, what does not fit any more is dropped, and counted."""

    def __init__(self, descriptor: int, tell: Callable[[int], None]) -> None:
        """Writes to `descriptor`. `tell` hears, in the thread, how many lines were dropped, once half of it is free."""
        self._descriptor = descriptor
        self._tell = tell
        self._lines: deque[bytes] = deque()
        self._held_bytes = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._closing = False
        self._left = False
        """The thread has: whoever logs now writes by himself."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Takes a line, with its end."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if not self._left:
                if self._held_bytes + len(line) > _MOST_BYTES:
                    self._dropped += 1
                    return
                self._lines.append(line)
                self._held_bytes += len(line)
                self._changed.notify()
                return
        self._out(line)

    def flush(self) -> None:
        """Lines go out as they come."""

    def close(self, within_s: float) -> None:
        """Waits until all is written, for so long at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(within_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing)
                if not self._lines:
                    self._left = True
                    return
                line = self._lines[0]
            self._out(line)
            with self._changed:
                self._lines.popleft()
                self._held_bytes -= len(line)
                dropped = self._dropped if self._held_bytes <= _MOST_BYTES // 2 else 0
                self._dropped -= dropped
            if dropped:
                self._tell(dropped)

    def _out(self, line: bytes) -> None:
        """Not by the stream: a thread that waits in one holds its lock, without which Python cannot end.

        What cannot be written is lost: a full disk or a closed pipe is no reason to stop serving.
        """
        with contextlib.suppress(OSError):
            while line:
                try:
                    line = line[os.write(self._descriptor, line) :]
                except BlockingIOError:  # a program that shares it, such as one of a pipeline, made it so
                    select.select([], [self._descriptor], [])
