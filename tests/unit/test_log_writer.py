"""Lines of the log on a pipe that is read, is not read, or not any more."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from support.polling import PATIENCE_S, until

from edged import log_writer
from edged.log_writer import Writer


class Pipe:
    """Its end that is read, and a writer at the other."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        fcntl.fcntl(self.out, fcntl.F_SETPIPE_SZ, 4096)
        self.dropped: list[int] = []
        self.writer = Writer(self.into, self.tell)

    def tell(self, dropped: int) -> None:
        self.dropped.append(dropped)
        self.writer.write(f"dropped {dropped}\n")

    def log(self, lines: Callable[[], None]) -> None:
        """Logs them, or fails: whoever logs waits for nobody."""
        thread = threading.Thread(target=lines, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "who logs waits for who reads"

    def read(self) -> list[str]:
        """All that was written until the writer ended."""
        found = bytearray()
        self.close_other = threading.Thread(target=self._end)
        self.close_other.start()
        while part := os.read(self.out, 4096):
            found += part
        self.close_other.join()
        return found.decode().splitlines()

    def _end(self) -> None:
        self.writer.close(PATIENCE_S)
        os.close(self.into)
        self.into = -1

    def close(self) -> None:
        os.close(self.out)
        self.writer.close(PATIENCE_S)
        if self.into >= 0:
            os.close(self.into)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


LINES = [f"{number:08} {'x' * 90}" for number in range(1000)]


def test_every_line_comes_whole_and_in_order(pipe: Pipe):
    pipe.log(lambda: [pipe.writer.write(f"{line}\n") for line in LINES] and None)
    assert pipe.read() == LINES
    assert pipe.dropped == []


def test_a_pipe_that_others_made_unblocking_loses_nothing(pipe: Pipe):
    os.set_blocking(pipe.into, False)
    pipe.log(lambda: [pipe.writer.write(f"{line}\n") for line in LINES] and None)
    assert pipe.read() == LINES


def test_what_nobody_reads_holds_nobody_up_and_is_counted(pipe: Pipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_writer, "_MOST_BYTES", 20_000)
    pipe.log(lambda: [pipe.writer.write(f"{line}\n") for line in LINES] and None)
    *found, told = pipe.read()
    assert found == LINES[: len(found)]
    assert pipe.dropped == [len(LINES) - len(found)]
    assert told == f"dropped {pipe.dropped[0]}"
    assert 200 <= len(found) < 300


def test_it_is_told_what_was_dropped_while_lines_go_on(pipe: Pipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_writer, "_MOST_BYTES", 20_000)
    pipe.log(lambda: [pipe.writer.write(f"{line}\n") for line in LINES] and None)
    found = bytearray()
    while b"dropped" not in found:  # nothing is logged meanwhile
        found += os.read(pipe.out, 4096)
    pipe.writer.write("later\n")
    assert pipe.read()[-1] == "later"
    assert len(pipe.dropped) == 1


def test_the_end_waits_for_no_reader_for_ever(pipe: Pipe):
    pipe.log(lambda: [pipe.writer.write(f"{line}\n") for line in LINES] and None)
    pipe.log(lambda: pipe.writer.close(0.01))
    pipe.log(lambda: pipe.writer.write("later\n"))


def test_a_pipe_that_nobody_has_any_more_loses_lines_and_nothing_else(pipe: Pipe):
    reader, pipe.out = pipe.out, os.open("/dev/null", os.O_RDONLY)
    os.close(reader)
    pipe.log(lambda: [pipe.writer.write(f"{line}\n") for line in LINES] and None)
    until(lambda: not pipe.writer._lines, "they are gone")
    assert pipe.writer._thread.is_alive()


def test_a_line_after_the_end_is_written_all_the_same(pipe: Pipe):
    pipe.writer.close(PATIENCE_S)
    pipe.writer.write("later\n")
    assert os.read(pipe.out, 4096) == b"later\n"


def test_what_is_no_text_is_written_as_its_numbers(pipe: Pipe):
    pipe.writer.write("a\udcffb\n")
    assert pipe.read() == ["a\\udcffb"]


PROGRAM = """
import sys
from edged import log
with log.beside():
    log.configure("info", "json")
    for number in range(int(sys.argv[1])):
        log.get("app").info("said", number=number)
    {end}
"""


# Whoever has no patience with the stop.
STOPPED_TWICE = """
    import asyncio, os, signal
    from edged.system.life import watch_signals
    async def main():
        stop = asyncio.Event()
        watch_signals(stop, stop.set)
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
    asyncio.run(main())
"""


def run(lines: int, end: str, out: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM.format(end=end), str(lines)], stderr=out)


@pytest.mark.parametrize(
    ("end", "status", "last"),
    [
        ("pass", 0, ""),
        ("sys.exit(78)", 78, ""),
        ("raise ValueError('a defect')", 1, "ValueError: a defect"),
        (STOPPED_TWICE, 143, ""),
    ],
)
def test_a_process_ends_after_its_last_line_however_it_ends(pipe: Pipe, end: str, status: int, last: str):
    process = run(500, end, pipe.into)
    os.close(pipe.into)
    pipe.into = -1
    found = bytearray()
    while part := os.read(pipe.out, 4096):
        found += part
    assert process.wait(PATIENCE_S) == status
    lines = found.decode().splitlines()
    assert [f'"number": {number}' in line for number, line in enumerate(lines[:500])] == [True] * 500
    assert (lines[500:] or [""])[-1] == last


def test_a_process_ends_although_nobody_reads(pipe: Pipe):
    process = run(500, "pass", pipe.into)
    try:
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
