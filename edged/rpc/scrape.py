"""The address at which Prometheus asks for metrics: as much of HTTP/1.1 as one page takes, within bounds.

https://www.rfc-editor.org/rfc/rfc9112. A connection carries one request and is closed after its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from edged import log
from edged.config import address
from edged.config.address import Address
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.rpc.metrics import CONTENT_TYPE

PATH = "/metrics"

# What a request's head may take, how long an exchange may last, and how many there may be at a time.
MAX_HEAD_BYTES = 8 * 1024
EXCHANGE_S = 5.0
MAX_CONNECTIONS = 16

_TEXT = "text/plain; charset=utf-8"


class Scrape:
    """Answers `GET /metrics`, one page a connection."""

    def __init__(self, address: Address, page: Callable[[], bytes]) -> None:
        """`page`: gives the metrics, quickly, since it is called on the loop."""
        self._address = address
        self._page = page
        self._server: asyncio.Server | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._log = log.get("rpc")

    async def start(self) -> None:
        """Begins to answer. Raises EdgedError (cannot_listen)."""
        host, port = self._address.host, self._address.port
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            raise EdgedError(
                Code.CANNOT_LISTEN,
                f"metrics cannot be shown on {host} port {port}: {error.strerror or error}",
                "is listen.metrics in use by another program?",
            ) from error

    async def stop(self) -> None:
        """Lets nobody in any more, and ends what is under way."""
        if self._server is not None:
            self._server.close()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._under_way) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._exchange(reader, writer), name="scrape")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(EXCHANGE_S):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # whoever asks so slowly, or goes away, gets no answer
        except Exception:  # noqa: BLE001 - a defect of one page must not go unnoticed, nor end more than it
            self._log.exception("the metrics met a defect of edged")
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", b"the request is too large\n")
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
            return _response("400 Bad Request", b"this is no request of HTTP/1.1\n")
        method, target, _ = words
        if target.partition(b"?")[0] != PATH.encode():
            return _response("404 Not Found", f"the metrics are at {PATH}\n".encode())
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"the metrics are only read\n", allow="GET, HEAD")
        return _response("200 OK", self._page(), CONTENT_TYPE, head_only=method == b"HEAD")


def _response(status: str, body: bytes, kind: str = _TEXT, *, allow: str = "", head_only: bool = False) -> bytes:
    fields = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
    if allow:
        fields["Allow"] = allow
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + (b"" if head_only else body)


async def show(
    stack: contextlib.AsyncExitStack,
    where: str,
    page: Callable[[], bytes],
    events: EventLog,
    degrade: Callable[[str], None],
) -> list[str]:
    """Offers `page` at `where` until the stack is left; gives its address, or none where that cannot be.

    That nobody can watch must not keep models from being served.
    """
    scrape = Scrape(address.parse(where), page)
    try:
        await scrape.start()
    except EdgedError as error:
        events.record(Severity.ERROR, error.code, "metrics", str(error))
        degrade(str(error))
        return []
    stack.push_async_callback(scrape.stop)
    return [f"http://{where}{PATH}"]
