"""The address for metrics, under callers that mean well and callers that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.polling import PATIENCE_S, until_async
from support.ports import free_port

from edged.config.address import Address
from edged.errors import Code, EdgedError
from edged.rpc import scrape
from edged.rpc.scrape import MAX_CONNECTIONS, MAX_HEAD_BYTES, Scrape

PAGE = b"edged_x 1\n"
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def shown(page=lambda: PAGE) -> AsyncIterator[int]:
    port = free_port()
    made = Scrape(Address("127.0.0.1", port, loopback=True), page)
    await made.start()
    try:
        yield port
    finally:
        await made.stop()


async def exchange(port: int, *parts: bytes) -> bytes:
    """All that comes back; nothing where the connection is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_a_page_is_given_whole():
    async with shown() as port:
        for request in (GET, b"GET /metrics HTTP/1.0\r\n\r\n", b"GET /metrics?a=b HTTP/1.1\r\n\r\n"):
            head, _, body = (await exchange(port, request)).partition(b"\r\n\r\n")
            assert head.split(b"\r\n")[0] == b"HTTP/1.1 200 OK"
            assert b"Content-Length: %d" % len(PAGE) in head
            assert b"Content-Type: text/plain; version=0.0.4" in head
            assert body == PAGE


async def test_a_request_may_come_in_pieces():
    async with shown() as port:
        assert (await exchange(port, *(bytes([byte]) for byte in GET))).endswith(PAGE)


async def test_a_large_page_is_given_whole():
    page = b"#" * 3_000_000
    async with shown(lambda: page) as port:
        assert (await exchange(port, GET)).partition(b"\r\n\r\n")[2] == page


async def test_a_head_is_given_alone():
    async with shown() as port:
        head, _, body = (await exchange(port, GET.replace(b"GET", b"HEAD"))).partition(b"\r\n\r\n")
        assert (head.split()[1], body) == (b"200", b"")
        assert b"Content-Length: %d" % len(PAGE) in head


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"\xff\x00 \xfe HTTP/1.1\r\n\r\n", b"404"),
    ],
)
async def test_what_is_no_such_request_is_refused(request_: bytes, status: bytes):
    async with shown() as port:
        assert (await exchange(port, request_)).split()[1] == status
        assert (await exchange(port, GET)).endswith(PAGE)


async def test_an_endless_head_is_cut_off():
    async with shown() as port:
        answer = await exchange(port, b"GET /metrics HTTP/1.1\r\n", *[b"x: " + b"y" * 1000 + b"\r\n"] * 1000)
        assert not answer or answer.split()[1] == b"431"
        assert (await exchange(port, GET)).endswith(PAGE)


async def test_a_head_within_bounds_is_taken():
    filling = b"x: " + b"y" * (MAX_HEAD_BYTES - len(GET) - 7) + b"\r\n\r\n"
    async with shown() as port:
        assert (await exchange(port, GET[:-2] + filling)).endswith(PAGE)


async def test_a_slow_caller_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scrape, "EXCHANGE_S", 0.05)
    async with shown() as port:
        assert await exchange(port, b"GET /met") == b""


async def test_a_caller_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scrape, "EXCHANGE_S", 0.05)
    page = b"#" * 30_000_000
    async with shown(lambda: page) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until_async(under_way, "nobody is served", holds=lambda tasks: not tasks)
        writer.transport.abort()


def under_way() -> list[asyncio.Task[None]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "scrape"]


async def test_a_flood_of_connections_is_bounded_and_survived():
    async with shown() as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4 * MAX_CONNECTIONS)]
        await until_async(under_way, "all places are taken", holds=lambda tasks: len(tasks) == MAX_CONNECTIONS)
        assert await exchange(port, GET) == b""
        for _, writer in idle:
            writer.transport.abort()
        await until_async(under_way, "nobody is served", holds=lambda tasks: not tasks)
        assert (await exchange(port, GET)).endswith(PAGE)


async def test_a_caller_that_goes_away_is_forgotten():
    async with shown() as port:
        for sent in (b"", b"GET", GET):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.transport.abort()
        assert (await exchange(port, GET)).endswith(PAGE)
        await until_async(under_way, "nobody is served", holds=lambda tasks: not tasks)


async def test_a_page_that_fails_ends_only_its_own_exchange():
    pages = iter([ValueError("defect"), PAGE])

    def page() -> bytes:
        found = next(pages)
        if isinstance(found, Exception):
            raise found
        return found

    async with shown(page) as port:
        assert await exchange(port, GET) == b""
        assert (await exchange(port, GET)).endswith(PAGE)


async def test_who_is_being_served_does_not_hold_up_the_end():
    async with shown() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await until_async(under_way, "somebody is served")
    assert await reader.read() == b""
    writer.close()


async def test_an_address_in_use_is_told():
    async with shown() as port:
        with pytest.raises(EdgedError, match=f"127.0.0.1 port {port}") as told:
            await Scrape(Address("127.0.0.1", port, loopback=True), lambda: PAGE).start()
        assert told.value.code is Code.CANNOT_LISTEN
