"""A daemon whose standard error nobody reads, as when the journal is held up by its disk."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import DIGITS, Daemon
from support.polling import until


class Unread(Daemon):
    """Its log is a pipe that is full from the beginning."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, [DIGITS], '[log]\nlevel = "debug"\n')
        os.mkfifo(self.log_file)
        self._out = os.open(self.log_file, os.O_RDONLY | os.O_NONBLOCK)
        size = fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, 4096)
        into = os.open(self.log_file, os.O_WRONLY | os.O_NONBLOCK)
        os.write(into, b"x" * (size - 1) + b"\n")
        os.close(into)
        self.read = bytearray()
        self._reader = threading.Thread(target=self._read)

    def log(self) -> str:
        return self.read.decode(errors="replace")

    def begin_to_read(self) -> None:
        self._reader.start()

    def _read(self) -> None:
        os.set_blocking(self._out, True)
        while part := os.read(self._out, 65536):
            self.read += part

    def stop(self) -> int | None:
        status = super().stop()
        if self._reader.ident:
            self._reader.join()
        os.close(self._out)
        return status


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[Unread]:
    made = Unread(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def test_it_starts_serves_and_ends_as_ever(unread: Unread):
    unread.start()
    for _ in range(3):
        assert unread.status().models
    unread.signal(15)
    assert unread.wait_end() == 0


def test_what_it_logged_is_there_once_it_is_read(unread: Unread):
    unread.start()
    unread.begin_to_read()
    until(lambda: '"code": "started"' in unread.log(), "it tells of its start", log=unread.log)
    unread.signal(15)
    assert unread.wait_end() == 0
    until(lambda: '"message": "stopping"' in unread.log(), "it tells of its end", log=unread.log)
