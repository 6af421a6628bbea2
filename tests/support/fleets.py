"""A real fleet, a web server that serves it with faults as verbs, and a device that fetches from it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edged.fleet import planning
from edged.fleet.home import Home
from edged.fleet.keys import Ring
from edged.fleet.listing import Listing
from edged.fleet.publishing import Published, publish
from edged.fleet.signing import Signing
from edged.fleet.starting import start
from edged.models.store import Store
from edged.update import fetch
from edged.update.plan import Plan

REPO = Path(__file__).resolve().parents[2]
DIGITS = REPO / "bootc/models/digits/1"
DIGITS_2 = REPO / "tests/data/bundles/digits-2"
PASSPHRASE = "correct horse"


class Fleet:
    """A fleet's folder and what an operator does with it."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.folder = folder
        self.root = folder / "root.json"
        self.url = self.home.repository.as_uri()

    def signing(self, now: datetime | None = None) -> Signing:
        """Fresh from the disk, with every key at hand."""
        signing = Signing(self.home, Ring(self.home.keys, [PASSPHRASE], None), now)
        signing.settle()
        return signing

    def publish(self, bundle: Path, now: datetime | None = None) -> Published:
        return publish(self.home, self.signing(now), bundle)

    def plan(self, change: Callable[[Plan], Plan]) -> None:
        signing = self.signing()
        listing = Listing(signing)
        planning.put(signing, listing, change(listing.plan()))

    def run_revision(self, revision: int, model: str = "digits") -> None:
        self.plan(lambda plan: planning.settled(plan, model, "generic", revision))

    def metadata(self, name: str) -> Path:
        """A metadata file by its name, without its version: the newest."""
        signing = self.signing()
        version = signing.version(name)
        return self.home.metadata / ("timestamp.json" if name == "timestamp" else f"{version}.{name}.json")

    def chunks(self) -> list[Path]:
        return sorted((self.home.repository / "chunks").rglob("*.zst"))


def make_fleet(folder: Path, shares: dict[str, tuple[int, int]] | None = None, bits: int = 2) -> Fleet:
    """The fleet `shops` with digits 1 and 2, the first of which devices are to run; four bins show what bins do."""
    ring = Ring(folder / "keys", [PASSPHRASE], None)
    start(folder, "shops", ring, shares or {}, bits)
    fleet = Fleet(folder)
    fleet.publish(DIGITS)
    fleet.publish(DIGITS_2)
    fleet.run_revision(1)
    return fleet


def copy_fleet(fleet: Fleet, folder: Path) -> Fleet:
    """Another of its own, so that a test may change it: nothing writes into a file that is there, but `overwrite`."""
    shutil.copytree(fleet.folder, folder, copy_function=os.link)
    return Fleet(folder)


def overwrite(path: Path, content: bytes) -> None:
    """Puts another content there; the file may be shared with the fleet it was copied from."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


class _Http(ThreadingHTTPServer):
    """Knows its connections, so that no thread outlives it."""

    daemon_threads = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Who asked has gone: what the test looks at is what the device says."""

    def hang_up(self) -> None:
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


class Server:
    """Serves a folder over http, or https as `tls` says. Its faults are verbs; it counts what it gives."""

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.folder = folder
        self.body_bytes = 0
        self.paths: list[str] = []
        self._faults: dict[str, Callable[[BaseHTTPRequestHandler, bytes], None]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._tls = tls
        self._http = _Http(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        where = "https://localhost" if self._tls else "http://127.0.0.1"
        return f"{where}:{self._http.server_address[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up()
        self._http.server_close()

    def reset(self) -> None:
        """Counts from nothing."""
        self.body_bytes, self.paths = 0, []

    def answer(self, part: str, fault: Callable[[BaseHTTPRequestHandler, bytes], None]) -> None:
        """Has requests whose path holds `part` answered by `fault`, which gets what would have been the body."""
        self._faults[part] = fault

    def mend(self) -> None:
        """No more faults."""
        self._faults.clear()

    def give(self, part: str, content: bytes, status: int = 200) -> None:
        """Something else in its place, as a proxy's page."""
        self.answer(part, lambda request, _: self.send(request, content, status))

    def cut_short(self, part: str, after: int) -> None:
        """The connection ends after so many bytes."""

        def fault(request: BaseHTTPRequestHandler, body: bytes) -> None:
            self._head(request, len(body))
            self._write(request, body[:after])
            request.close_connection = True

        self.answer(part, fault)

    def stall(self, part: str, after: int = 0) -> None:
        """After so many bytes nothing comes any more, and the connection stays."""

        def fault(request: BaseHTTPRequestHandler, body: bytes) -> None:
            self._head(request, len(body))
            self._write(request, body[:after])
            self._over.wait()

        self.answer(part, fault)

    def trickle(self, part: str, every_s: float, piece: int = 1) -> None:
        """So many bytes at a time."""

        def fault(request: BaseHTTPRequestHandler, body: bytes) -> None:
            self._head(request, len(body))
            for at in range(0, len(body), piece):
                if self._over.wait(every_s):
                    return
                self._write(request, body[at : at + piece])

        self.answer(part, fault)

    def endless(self, part: str) -> None:
        """Bytes without end, and no length beforehand."""

        def fault(request: BaseHTTPRequestHandler, _: bytes) -> None:
            request.send_response(200)
            request.end_headers()
            request.close_connection = True
            while not self._over.is_set():
                self._write(request, b" " * 65536)

        self.answer(part, fault)

    def drop(self, part: str) -> None:
        """The connection ends without an answer."""

        def fault(request: BaseHTTPRequestHandler, _: bytes) -> None:
            request.close_connection = True

        self.answer(part, fault)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.paths.append(request.path)
        path = self.folder / request.path.lstrip("/")
        body = path.read_bytes() if path.is_file() else b""
        with contextlib.suppress(OSError):  # who asked has gone
            for part, fault in self._faults.items():
                if part in request.path:
                    fault(request, body)
                    return
            self.send(request, body if path.is_file() else b"not found", 200 if path.is_file() else 404)

    def send(self, request: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
        self._head(request, len(body), status)
        self._write(request, body)

    def _head(self, request: BaseHTTPRequestHandler, length: int, status: int = 200) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(length))
        request.end_headers()

    def _write(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        with self._lock:
            self.body_bytes += len(content)
        request.wfile.write(content)


class Answered:
    """What one run of the fetcher said."""

    def __init__(self, status: int, said: str) -> None:
        self.status = status
        self.events = [json.loads(line) for line in said.splitlines()]

    @property
    def code(self) -> str:
        """Why it was refused; empty where it was not."""
        last = self.events[-1]
        return last["code"] if last["event"] == "refused" else ""

    @property
    def message(self) -> str:
        return self.events[-1].get("message", "")

    def event(self, name: str) -> dict:
        (found,) = [event for event in self.events if event["event"] == name]
        return found


class Device:
    """A device's folders, and the fetcher run on them in this process."""

    def __init__(self, folder: Path, root: Path, url: str) -> None:
        self.folder = folder
        self.metadata = folder / "tuf"
        self.into = folder / "in"
        self.store = Store(folder / "store")
        self.root = root
        self.url = url
        self.options: list[str] = []

    def arguments(self, *command: str) -> list[str]:
        where = ["--metadata-dir", str(self.metadata), "--root", str(self.root), "--repository", self.url]
        return [*where, "--timeout", "1", *self.options, *command]

    def run(self, *command: str) -> Answered:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            status = fetch.run(self.arguments(*command))
        for thread in threading.enumerate():  # a child ends without waiting for those that still ask
            if thread.name.startswith("chunk"):
                thread.join()
        return Answered(status, said.getvalue())

    def plan(self) -> Answered:
        return self.run("plan", "--fleet", "shops", "--into", str(self.into))

    def fetching(self, revision: int, model: str = "digits", *more: str) -> list[str]:
        staging = str(self.store.staging(model, revision))
        named = ["fetch", "--model", model, "--revision", str(revision), "--staging", staging]
        return [*named, "--store", str(self.store.root), *more]

    def fetch(self, revision: int, model: str = "digits", *more: str) -> Answered:
        return self.run(*self.fetching(revision, model, *more))

    def install(self, revision: int, model: str = "digits") -> Path:
        """Fetches and takes in; gives the folder that would serve."""
        answered = self.fetch(revision, model)
        assert answered.status == 0, answered.events
        self.store.take_in(self.store.staging(model, revision))
        return self.store.path(model, revision)


@contextlib.contextmanager
def served(fleet: Fleet, folder: Path) -> Iterator[tuple[Server, Device]]:
    """The fleet's repository over http, and a device that fetches there."""
    with Server(fleet.home.repository) as server:
        yield server, Device(folder, fleet.root, server.url)
