"""The front's end of the fetcher, on the loop that the daemon runs on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from msgspec import structs
from support.descriptors import count
from support.fleets import Device, Server

from edged.errors import Code, EdgedError
from edged.update import fetcher
from edged.update.fetcher import Fetcher, Order, Origin
from edged.update.heard import Heard


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


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(url="file:///nowhere", root=tmp_path / "root.json", metadata=tmp_path / "metadata")


@pytest.mark.parametrize(
    "bring",
    [
        lambda asked, origin, into: asked.bring_plan(origin, "f", into, print),
        lambda asked, origin, into: asked.bring_manifest(origin, "m", 1, into / "deep", print),
        lambda asked, origin, into: asked.bring_revision(
            origin, Order(model="m", revision=1, staging=into / "deep", store=into), print
        ),
    ],
    ids=["plan", "manifest", "revision"],
)
async def test_what_this_devices_disk_refuses_is_refused_with_a_reason(
    tmp_path: Path, origin: Origin, bring: Callable[..., Awaitable[object]]
):
    (tmp_path / "file").touch()
    with pytest.raises(EdgedError, match="Not a directory") as raised:
        await bring(Fetcher(), origin, tmp_path / "file/in")
    assert raised.value.code is Code.NOT_PERMITTED


async def test_a_process_that_cannot_be_started_is_no_end_of_the_agent(tmp_path: Path, origin: Origin, monkeypatch):
    def spawn(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(fetcher, "spawn", spawn)
    with pytest.raises(EdgedError, match="Resource temporarily unavailable"):
        await Fetcher().bring_plan(origin, "f", tmp_path / "in", print)


@pytest.mark.parametrize(
    "line",
    [b"no message", b"[]", b'{"event": "metadata"}', b'{"event": "metadata", "roles": 3}', b'{"received": "many"}'],
)
async def test_whatever_a_child_says_is_refused_at_worst(line: bytes):
    reader = asyncio.StreamReader()
    reader.feed_data(line + b"\n")
    reader.feed_eof()
    with pytest.raises(EdgedError, match="no message"):
        await fetcher._listen(reader, fetcher._counted("https://r", Heard().take))


class TestADaysBudget:
    def test_counts_what_several_children_received_once(self):
        """The plan is asked for while a download runs."""
        heard = Heard()
        download, look = (fetcher._counted("https://r", heard.take) for _ in range(2))
        for tell, received in ((download, 1000), (look, 0), (look, 30), (download, 1500), (look, 50), (download, 1500)):
            tell({"event": "confined", "lacks": []} if not received else {"event": "progress", "received": received})
        assert heard.budget_bytes(1) == 2**20 - 1550

    async def test_is_spent_by_a_link_and_not_by_a_folder(self, tmp_path: Path, online: tuple[Server, Device]):
        server, device = online
        heard = Heard()
        left = []
        for url in (server.folder.as_uri(), server.url):
            at = Origin(url=url, root=device.root, metadata=tmp_path / "metadata")
            await Fetcher().bring_plan(at, "shops", tmp_path / "plan", heard.take)
            left.append(heard.budget_bytes(1))
        assert left[0] == 2**20
        assert 0 < 2**20 - left[1] <= server.body_bytes, "less what the server says of what it has not"


async def test_without_a_repository_none_is_started(tmp_path: Path, origin: Origin, monkeypatch):
    monkeypatch.setattr(fetcher, "spawn", lambda *_: pytest.fail("a fetcher was started"))
    nowhere = structs.replace(origin, url="")
    with pytest.raises(EdgedError, match="there is no repository to look at") as raised:
        await Fetcher().bring_manifest(nowhere, "m", 9, tmp_path / "staging" / "m", lambda _: None)
    assert raised.value.code is Code.DOWNLOAD_FAILED
