"""How long inferences have run: the time in which at least one was under way. Pure."""

from __future__ import annotations


class Busy:
    """For all models together; times are of a monotonic clock, in nanoseconds."""

    def __init__(self) -> None:
        self._running = 0
        self._since_ns = 0
        self._ns = 0

    def begin(self, now_ns: int) -> None:
        """A batch is executed from now on."""
        if not self._running:
            self._since_ns = now_ns
        self._running += 1

    def end(self, now_ns: int) -> None:
        """One of them has ended."""
        self._running -= 1
        if not self._running:
            self._ns += now_ns - self._since_ns

    def seconds(self, now_ns: int) -> float:
        """So long until now: at most one for each second that has passed, however many ran at a time."""
        return (self._ns + (now_ns - self._since_ns if self._running else 0)) / 1e9
