"""The child's end of the link, as far as it reads: frames, most of them with one system call. Child's end only."""

from __future__ import annotations

import socket

from edged.worker.messages import MAX_BODY_BYTES, MAX_HEAD_BYTES, PREFIX

# What is usual fits at once; a longer body is read into memory of its own.
_BUFFER_BYTES = 64 * 1024


class Inbox:
    """Reads frames off a blocking socket."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._at = self._end = 0

    def read(self) -> tuple[memoryview, memoryview] | None:
        """The head and the body of the next frame; None when the front has gone.

        Both may be kept. The body begins where arrays of every datatype may begin. Raises SystemExit where what comes
        is no frame.
        """
        prefix = self._take(PREFIX.size)
        if prefix is None:
            return None
        head_size, body_size = PREFIX.unpack(prefix)
        if head_size > MAX_HEAD_BYTES or body_size > MAX_BODY_BYTES:
            raise SystemExit(f"a frame of {head_size} + {body_size} bytes: the link is out of step")
        head = self._take(head_size)
        body = None if head is None else self._take(body_size)
        return None if head is None or body is None else (head, body)

    def _take(self, size: int) -> memoryview | None:
        """The next `size` bytes, in memory of their own."""
        while self._end - self._at < size:
            if size > _BUFFER_BYTES:
                return self._take_long(size)
            if self._at:
                left = self._end - self._at
                self._buffer[:left] = bytes(self._buffer[self._at : self._end])
                self._at, self._end = 0, left
            count = self._link.recv_into(self._buffer[self._end :])
            if not count:
                return None
            self._end += count
        data = memoryview(bytearray(self._buffer[self._at : self._at + size]))
        self._at += size
        if self._at == self._end:
            self._at = self._end = 0
        return data

    def _take_long(self, size: int) -> memoryview | None:
        data = memoryview(bytearray(size))
        at = self._end - self._at
        data[:at] = self._buffer[self._at : self._end]
        self._at = self._end = 0
        while at < size:
            count = self._link.recv_into(data[at:])
            if not count:
                return None
            at += count
        return data
