"""Brokers that misbehave on purpose, byte by byte as MQTT v5 has it.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html
"""

from __future__ import annotations

import contextlib
import fcntl
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from socket import SHUT_RDWR, socket
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import msgspec
import zstandard

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 13, 14


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    length, size = b"", len(body)
    while True:
        size, digit = size >> 7, size & 0x7F
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([kind << 4 | flags]) + length + body


def read_packet(link: socket, most_bytes: int = 2**28) -> tuple[int, bytes] | None:
    """Its kind and body; None at the end, which it makes itself for a body that is larger."""
    head = link.recv(1)
    if not head:
        return None
    size, shift = 0, 0
    while True:
        digit = link.recv(1)[0]
        size |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            break
    if size > most_bytes:
        wait_written(link)
        link.sendall(packet(DISCONNECT, b"\x95\0"))
        return None
    body = b""
    while len(body) < size:
        body += link.recv(size - len(body))
    return head[0] >> 4, body


def wait_written(link: socket) -> None:
    """Until no more comes of what nobody reads."""
    before = -1
    while (came := int.from_bytes(fcntl.ioctl(link, termios.FIONREAD, bytes(4)), sys.byteorder)) != before:
        before = came
        time.sleep(0.05)


def published(body: bytes) -> tuple[str, bytes, bytes]:
    """Topic, packet number and payload of a PUBLISH of QoS 1."""
    end = 2 + int.from_bytes(body[:2], "big")
    place, size, shift = end + 2, 0, 0
    while True:
        size |= (body[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not body[place - 1] & 0x80:
            break
    return body[2:end].decode(), body[end : end + 2], body[place + size :]


class Habits:
    """What a broker does; the defaults are good manners."""

    def __init__(self) -> None:
        self.connack = packet(CONNACK, b"\0\0\0")
        self.after_connack = b""
        self.subscribed = b"\1"
        self.acknowledges = True
        self.puback: Callable[[bytes], bytes] = lambda number: packet(PUBACK, number + b"\0\0")
        self.most_bytes = 2**28
        """For a larger packet it ends the connection, most of it unread, and never said so before."""
        self.published = 0
        self.largest = 0
        """Bytes of the largest PUBLISH that came."""
        self.pings = 0
        self.connections = 0
        self.rows: deque[tuple[str, dict[str, Any]]] = deque()
        """What came of windows and events."""
        self._links: list[socket] = []

    def hang_up(self) -> None:
        """Ends all connections."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(SHUT_RDWR)

    def serve(self, link: socket) -> None:
        """One connection, to its end."""
        self.connections += 1
        self._links.append(link)
        with contextlib.suppress(OSError, IndexError):
            while found := read_packet(link, self.most_bytes):
                if answer := self._answer(*found):
                    link.sendall(answer)
        self._links.remove(link)

    def _answer(self, kind: int, body: bytes) -> bytes:
        if kind == CONNECT:
            return self.connack + self.after_connack
        if kind == SUBSCRIBE:
            return packet(SUBACK, body[:2] + b"\0" + self.subscribed * body.count(b"command"))
        if kind == PINGREQ:
            self.pings += 1
            return packet(PINGRESP, b"")
        if kind != PUBLISH:
            return b""
        self.published += 1
        self.largest = max(self.largest, len(packet(kind, body)))
        topic, number, payload = published(body)
        kept = topic.rpartition("/")[2]
        if kept in ("telemetry", "event"):
            if payload.startswith(b"\x28\xb5\x2f\xfd"):
                payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=2**24)
            self.rows.append((kept, msgspec.json.decode(payload)))
        return self.puback(number) if self.acknowledges else b""


@contextlib.contextmanager
def served(habits: Habits) -> Iterator[int]:
    """A broker with these habits; gives its port."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            habits.serve(self.request)

    class Server(ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            habits.hang_up()
            thread.join()
