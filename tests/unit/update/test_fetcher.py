"""The front's end of the fetcher, on the loop that the daemon runs on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest
import uvloop
from support.descriptors import count

from edged.update import fetcher


@pytest.fixture
def readers() -> Iterator[list[OSError]]:
    """Threads that open, read and close files all the time; gives what went wrong for them."""
    wrong: list[OSError] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
                os.read(descriptor, 1)
                os.close(descriptor)
            except OSError as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=read, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    yield wrong
    over.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_what_it_reads_a_child_from_closes_nobody_elses_files(loop, readers):
    """The journal, models and stores are read in other threads while a fetcher ends."""

    async def run() -> None:
        for _ in range(2000):
            async with fetcher._output() as (reader, other):
                with other:
                    other.send(b"{}\n")
                assert await reader.read() == b"{}\n"

    before = count("socket:")
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
    assert not readers
    assert count("socket:") == before
