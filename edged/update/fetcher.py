"""The front's end of the fetcher: starts the child, reads what it tells, ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edged.bundle.folder import parse_manifest
from edged.bundle.manifest import MANIFEST_NAME, Manifest
from edged.errors import Code, EdgedError
from edged.models import files
from edged.update import plan as plans
from edged.worker.child import spawn

_MODULE = "edged.update.fetch"
_PLAN_NAME = "plan.json"
_MAX_LINE_BYTES = 1024 * 1024
_DONE = "exit status 0"

# Where a proxy is, and where certificates are; nothing else of our environment concerns the child.
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ssl_cert_file", "ssl_cert_dir")

NOWHERE = "there is no repository to look at"

Tell = Callable[[Mapping[str, Any]], None]
"""Takes a thing that a fetcher told, and how many bytes `more` had come over a link by then."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """A repository, and what is believed of it."""

    url: str
    root: Path
    metadata: Path
    """The folder in which its metadata is kept."""
    rate_bytes: int = 0
    budget_bytes: int = -1
    floors: Mapping[str, str] = {}
    """By role what was accepted before."""
    ca: Path | None = None
    """The authorities that may vouch for a server, where the file is there."""
    build_time: datetime | None = None
    """When the image was built."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A revision, where it is to come, and what it may take."""

    model: str
    revision: int
    staging: Path
    store: Path
    have: tuple[Path, ...] = ()
    """Further bundles to take chunks from."""
    room_bytes: int = -1
    """What the store may still take; -1: no bound."""
    reserve_bytes: int = 0
    """What stays free on its disk."""


class Fetcher:
    """Starts the child for each thing that is to be fetched."""

    async def bring_plan(self, origin: Origin, fleet: str, into: Path, tell: Tell) -> tuple[plans.Plan, dict[str, int]]:
        """The fleet's plan, verified, and each model's signed floor. Raises EdgedError with the reason."""
        with _as_refusal():
            told = await self._run(origin, ["plan", "--fleet", fleet, "--into", str(into)], into, tell)
            raw = await asyncio.to_thread((into / _PLAN_NAME).read_bytes)
        try:
            return plans.decode(raw), msgspec.convert(told.get("floors"), dict[str, int])
        except msgspec.ValidationError as error:
            raise _no_message() from error

    async def bring_manifest(self, origin: Origin, model: str, revision: int, into: Path, tell: Tell) -> Manifest:
        """What a revision says of itself, verified; kept in `into`. Raises EdgedError with the reason."""
        arguments = ["manifest", "--model", model, "--revision", str(revision), "--into", str(into)]
        with _as_refusal():
            await self._run(origin, arguments, into.parent, tell)
            raw = await asyncio.to_thread((into / MANIFEST_NAME).read_bytes)
        return parse_manifest(raw, into / MANIFEST_NAME)

    async def bring_revision(self, origin: Origin, order: Order, tell: Tell) -> None:
        """Brings a revision into staging, every byte verified. Raises EdgedError with the reason."""
        given = {
            "model": order.model,
            "revision": order.revision,
            "staging": order.staging,
            "store": order.store,
            "room": order.room_bytes,
            "reserve": order.reserve_bytes,
        }
        arguments = ["fetch", *(part for name, value in given.items() for part in (f"--{name}", str(value)))]
        arguments += [part for folder in order.have for part in ("--have", str(folder))]
        with _as_refusal():
            await self._run(origin, arguments, order.staging.parent, tell)

    async def _run(self, origin: Origin, arguments: Sequence[str], scratch: Path, tell: Tell) -> dict[str, Any]:
        """Runs the fetcher to its end; gives the last thing that it told. Raises EdgedError, and OSError."""
        if not origin.url:
            raise EdgedError(Code.DOWNLOAD_FAILED, NOWHERE, "set update.repository, or bring one on a stick")
        await asyncio.to_thread(_make_scratch, scratch)
        options = ["--metadata-dir", str(origin.metadata), "--root", str(origin.root), "--repository", origin.url]
        options += ["--daemon", str(os.getpid()), *(["--ca", str(origin.ca)] if origin.ca else [])]
        options += ["--build-time", origin.build_time.isoformat()] if origin.build_time else []
        options += ["--rate", str(origin.rate_bytes), "--budget", str(origin.budget_bytes)]
        options += [part for role, floor in origin.floors.items() for part in ("--floor", f"{role}={floor}")]
        environment = {name: value for name, value in os.environ.items() if name.lower() in _PASSED_ON}
        environment |= {"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(scratch)}
        async with _output() as (reader, other):
            with other:
                child = spawn(_MODULE, [*options, *arguments], environment, (), other.fileno())
            try:
                last = await _listen(reader, _counted(origin.url, tell))
                await asyncio.shield(child.ended)
            finally:
                child.kill()
                how = await asyncio.shield(child.ended)
        if last.get("event") == "refused":
            raise EdgedError(_code(str(last.get("code"))), str(last.get("message")), str(last.get("hint")))
        if how.text != _DONE:
            raise EdgedError(Code.DOWNLOAD_FAILED, f"the fetcher ended: {how.text}", "its log says more")
        return last


@contextlib.contextmanager
def _as_refusal() -> Iterator[None]:
    """What this device's own disk or kernel refuses is told as what a fetcher refuses is."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = Code.STORAGE_FULL if error.errno in files.FULL else Code.NOT_PERMITTED
        text = f"no fetcher could be run: {where}{error.strerror or error}"
        raise EdgedError(code, text, "look at the state folder and its disk; it is tried again") from error


@contextlib.asynccontextmanager
async def _output() -> AsyncIterator[tuple[asyncio.StreamReader, socket.socket]]:
    """What a child's output is read from, and the end that it writes to.

    No pipe: uvloop closes the descriptor of one twice, and another thread may have got the same number in between.
    """
    mine, other = socket.socketpair()
    with other:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=mine, limit=_MAX_LINE_BYTES)
        except BaseException:
            mine.close()
            raise
        try:
            yield reader, other
        finally:
            writer.close()


async def _listen(reader: asyncio.StreamReader, tell: Tell) -> dict[str, Any]:
    """Passes on what the child tells, until it closes its output. Raises EdgedError."""
    last: dict[str, Any] = {}
    try:
        while line := await reader.readline():
            last = msgspec.json.decode(line, type=dict[str, Any])
            tell(last)
    except (ValueError, TypeError, AttributeError, LookupError, msgspec.DecodeError) as error:
        raise _no_message() from error  # what it parses may have made it say anything
    return last


def _counted(url: str, tell: Tell) -> Tell:
    """For one child: each counts from its own beginning, and several may run. What a folder gave came over no link."""
    linked, seen = urlsplit(url).scheme != "file", 0

    def tell_more(told: Mapping[str, Any]) -> None:
        nonlocal seen
        before, seen = seen, max(seen, int(told.get("received", 0)))
        tell({**told, "more": seen - before if linked else 0})

    return tell_more


def _no_message() -> EdgedError:
    return EdgedError(Code.DOWNLOAD_FAILED, "the fetcher said what is no message", "its log says more")


def _make_scratch(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _code(word: str) -> Code:
    try:
        return Code(word)
    except ValueError:
        return Code.DOWNLOAD_FAILED
