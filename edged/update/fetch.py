"""The fetcher: a short-lived child that brings a plan or a revision from a repository into staging, verified.

    python -I -m edged.update.fetch --metadata-dir DIR --root FILE --repository URL plan --fleet NAME --into DIR
    python -I -m edged.update.fetch … manifest --model NAME --revision N --into DIR
    python -I -m edged.update.fetch … fetch --model NAME --revision N --staging DIR [--store DIR] [--have DIR]

It parses what comes from outside, and its memory goes back when it ends. On standard output it says what it does, a
JSON document a line, each with its `event`: `confined`, `metadata`, `plan`, `manifest`, `progress`,
`staged`, `refused`. Exit status: 0 done,
1 refused (the last line has the stable code), 2 wrong usage.

`init`, `refresh` and `download` are what the conformance suite of The Update Framework drives a client by.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import quote, unquote, urlsplit

import msgspec

from edged import clock, durable
from edged.bundle.folder import parse_manifest
from edged.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, encode
from edged.errors import Code, EdgedError
from edged.models import files
from edged.models.store import Store
from edged.update import plan as plans
from edged.update.assemble import Assembly, Progress, Space
from edged.update.confine import confine
from edged.update.repository import OPERATORS_NAME, Repository
from edged.update.transport import SCHEMES, Terms, Transport
from edged.update.trusted import Trusted
from edged.worker.tie import tie_to

PLAN_NAME = "plan.json"

# How often progress is told at most.
_TOLD_EVERY_S = 0.5

# For how long nothing of use may come, over the timeouts of the connection: a server that gives headers a letter at a
# time keeps within those.
_STALL_S = 60

# To hash, copy and flush the largest models on a slow card.
_OWN_FILES_S = 3600.0

_MAX_TARGET_BYTES = 64 * 1024 * 1024


def main() -> NoReturn:
    """Runs the fetcher on the process's arguments and ends the process, whatever its threads still wait for."""
    os.umask(0o077)
    try:
        status = run(sys.argv[1:], confine)
        sys.stdout.flush()
    except BrokenPipeError:  # who asked has gone, and hears of nothing any more
        status = 1
    os._exit(status)


Confine = Callable[[Sequence[Path], Sequence[Path]], list[str]]


def run(arguments: Sequence[str], confine: Confine | None = None) -> int:
    """Does what `arguments` say, and gives the exit status; with `confine` as little as it can beside that."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.do is not _init and not (given.repository or given.metadata_url):
        parser.error("give --repository")
    if given.do is _download and not (given.target_name and given.target_dir and given.target_base_url):
        parser.error("give --target-name, --target-dir and --target-base-url")
    if given.daemon:
        tie_to(given.daemon)
    transport = Transport(_terms(given), _Alarm(given.timeout).wind)
    try:
        if confine is not None:
            _tell("confined", lacks=confine(*_needs(given)))
        given.do(given, transport)
    except EdgedError as error:
        return _refuse(error, transport)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = Code.STORAGE_FULL if error.errno in files.FULL else Code.NOT_PERMITTED
        return _refuse(
            EdgedError(code, f"{where}{error.strerror or error}", "look at the state folder and its disk"), transport
        )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _needs(given: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """What it is to read and to write; what is written to is there then. Raises OSError."""
    into = given.target_dir or getattr(given, "into", None) or getattr(given, "staging", None)
    writes = [given.metadata_dir, *filter(None, [into, os.environ.get("TMPDIR")])]
    for folder in writes:
        files.make_folder(Path(folder).absolute())
    urls = (given.repository, given.metadata_url, given.target_base_url)
    folders = [unquote(urlsplit(url).path) for url in urls if url and urlsplit(url).scheme == "file"]
    named = [given.root, given.ca, *(getattr(given, name, None) for name in ("trusted_root", "store"))]
    named += [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
    return [Path(path) for path in (*folders, *filter(None, named), *getattr(given, "have", ()))], writes


def _tell(event: str, **facts: Any) -> None:
    sys.stdout.write(msgspec.json.encode({"event": event, **facts}).decode() + "\n")
    sys.stdout.flush()


def _refuse(error: EdgedError, transport: Transport) -> int:
    _tell("refused", code=error.code, message=error.message, hint=error.hint, received=transport.received)
    return 1


class _Alarm:
    """Ends what takes too long, wherever it is."""

    def __init__(self, timeout_s: int) -> None:
        self._asking_s = float(timeout_s + _STALL_S)
        self._asking = False
        signal.signal(signal.SIGALRM, self._ring)
        self.wind(asking=False)

    def wind(self, asking: bool) -> None:
        """Something goes on: the time runs anew; it is longer for its own files, where it asks for nothing."""
        self._asking = asking
        signal.setitimer(signal.ITIMER_REAL, self._asking_s if asking else _OWN_FILES_S)

    def _ring(self, number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG002 - signal's
        if self._asking:
            found = f"the repository gave nothing that is of use for {self._asking_s:.0f} s"
        else:
            found = f"this device took more than {_OWN_FILES_S:.0f} s to read or write its own files"
        raise EdgedError(Code.DOWNLOAD_FAILED, found, "it is tried again later; what has come is kept")


def _terms(given: argparse.Namespace) -> Terms:
    ca = str(given.ca) if given.ca and os.access(given.ca, os.F_OK) else ""
    return Terms(rate=given.rate, budget=given.budget, timeout_s=given.timeout, ca=ca)


def _root_of_trust(path: Path) -> bytes:
    """Raises EdgedError, or OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        text = f"there is no root of trust at {path}"
        raise EdgedError(Code.NOT_PERMITTED, text, "put the fleet's root.json there") from None


class _Session:
    """One connection to a repository, its metadata brought up to date."""

    def __init__(self, given: argparse.Namespace, transport: Transport) -> None:
        self.transport = transport
        root = _root_of_trust(given.root) if given.root else None
        floors = dict(floor.split("=", 1) for floor in given.floor)
        self.trusted = Trusted(
            given.metadata_dir,
            given.metadata_url or f"{given.repository}/metadata",
            self.transport,
            root=root,
            system_time=clock.wall(),
            build_time=given.build_time,
            floors=floors,
        )
        self.trusted.refresh()
        self.repository = Repository(given.repository or "", self.trusted, self.transport)

    def tell(self) -> None:
        _tell(
            "metadata",
            roles=self.trusted.accepted(),
            trusted_time=self.trusted.now,
            issued=self.trusted.issued,
            received=self.transport.received,
        )


def _init(given: argparse.Namespace, transport: Transport) -> None:
    root = given.trusted_root.read_bytes()
    Trusted(given.metadata_dir, "", transport, root=root, system_time=clock.wall())


def _refresh(given: argparse.Namespace, transport: Transport) -> None:
    _Session(given, transport).tell()


def _download(given: argparse.Namespace, transport: Transport) -> None:
    session = _Session(given, transport)
    for name in given.target_name:
        copy = given.target_dir / quote(name, "")
        content = session.trusted.target(name, given.target_base_url, _MAX_TARGET_BYTES, copy)
        session.tell()
        if content is None:
            raise EdgedError(Code.REVISION_NOT_FOUND, f"{name}: is not published", "is it the right name?")


def _plan(given: argparse.Namespace, transport: Transport) -> None:
    session = _Session(given, transport)
    plan = session.repository.plan(given.fleet)
    floors = {model: session.repository.min_revision(model) for model in plan.models}
    operators = session.repository.operators()
    session.trusted.forget()
    files.make_folder(given.into)
    path = given.into / PLAN_NAME
    durable.write(path, plans.encode(plan))
    if operators is None:
        (given.into / OPERATORS_NAME).unlink(missing_ok=True)
    else:
        durable.write(given.into / OPERATORS_NAME, operators)
    session.tell()
    _tell("plan", path=str(path), floors=floors)


def _manifest(given: argparse.Namespace, transport: Transport) -> None:
    session = _Session(given, transport)
    manifest = session.repository.manifest(given.model, given.revision)
    session.tell()
    files.make_folder(given.into)
    durable.write(given.into / MANIFEST_NAME, encode(manifest))
    _tell("manifest", path=str(given.into / MANIFEST_NAME))


def _fetch(given: argparse.Namespace, transport: Transport) -> None:
    session = _Session(given, transport)
    manifest = session.repository.manifest(given.model, given.revision)
    session.tell()
    files.make_folder(given.staging)
    durable.write(given.staging / MANIFEST_NAME, encode(manifest))
    store = Store(given.store or given.staging / "nothing")
    told = _Told(session.transport)
    space = Space(room=given.room, reserve=given.reserve)
    assembly = Assembly(given.staging, manifest, store.blob, session.repository.chunk, space, told)
    progress = assembly.run(_haves(store, given.have))
    _tell(
        "staged",
        path=str(given.staging),
        **msgspec.structs.asdict(progress),
        received=session.transport.received,
    )


def _haves(store: Store, folders: Sequence[Path]) -> Iterator[tuple[Path, Manifest]]:
    """Bundles to take chunks from; one that cannot be read gives none."""
    installed = [store.path(model, revision) for model in store.models() for revision in store.revisions(model)]
    for folder in (*installed, *folders):
        try:
            raw = files.read(folder, MANIFEST_NAME, MAX_MANIFEST_BYTES)
            yield folder, parse_manifest(raw, folder / MANIFEST_NAME)
        except EdgedError:
            continue


class _Told:
    """Progress, told now and then."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._next_s = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _TOLD_EVERY_S
            facts = msgspec.structs.asdict(progress)
            _tell("progress", **facts, received=self._transport.received)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edged.update.fetch", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--metadata-dir", type=Path, required=True, help="folder in which the repository's metadata is kept")
    add("--root", type=Path, help="file with the root of trust; without it, the one that `init` kept")
    add("--repository", type=_url, help="URL of the repository: https, http or file")
    add("--metadata-url", type=_url, help="where its metadata lies, if not in metadata/ below it")
    add("--target-name", action="append", help="download: a target; they are brought in the order given")
    add("--target-dir", type=Path, help="download: the folder it is put into")
    add("--target-base-url", type=_url, help="download: where targets lie")
    add("--ca", type=Path, help="file of the authorities that may vouch for a server, where it is there")
    add("--daemon", type=_count, default=0, help="process id of the daemon, with which it ends")
    add("--build-time", type=_time, help="when this image was built: time is not before that (ISO 8601)")
    add("--floor", action="append", default=[], metavar="ROLE=VERSION:KEYS", help="as told by an earlier `metadata`")
    add("--rate", type=_count, default=0, help="bytes a second; 0: no bound")
    add("--budget", type=int, default=-1, help="bytes in all; -1: no bound")
    add("--timeout", type=_count, default=30, help="seconds for a connection and for each further byte")
    commands = parser.add_subparsers(required=True)
    init = commands.add_parser("init", help="keep a root of trust")
    init.add_argument("trusted_root", type=Path)
    init.set_defaults(do=_init)
    commands.add_parser("refresh", help="bring the metadata up to date").set_defaults(do=_refresh)
    commands.add_parser("download", help="bring targets").set_defaults(do=_download)
    plan = commands.add_parser("plan", help="bring the plan")
    plan.add_argument("--fleet", required=True)
    plan.add_argument("--into", type=Path, required=True, help="folder for plan.json and operators.json")
    plan.set_defaults(do=_plan)
    manifest = commands.add_parser("manifest", help="bring what a revision says of itself")
    fetch = commands.add_parser("fetch", help="bring a revision")
    for command in (manifest, fetch):
        command.add_argument("--model", required=True)
        command.add_argument("--revision", type=_count, required=True)
    manifest.add_argument("--into", type=Path, required=True, help="folder for manifest.json")
    manifest.set_defaults(do=_manifest)
    fetch.add_argument("--staging", type=Path, required=True, help="folder into which it comes")
    fetch.add_argument("--store", type=Path, help="the store, for what is installed; it is only read")
    fetch.add_argument("--have", type=Path, action="append", default=[], help="a further bundle to take chunks from")
    fetch.add_argument("--room", type=int, default=-1, help="bytes that the store may yet take; -1: no bound")
    fetch.add_argument("--reserve", type=_count, default=0, help="bytes that stay free on the disk")
    fetch.set_defaults(do=_fetch)
    return parser


def _url(text: str) -> str:
    if urlsplit(text).scheme not in SCHEMES:
        raise argparse.ArgumentTypeError(f"{text} is no URL of {', '.join(SCHEMES)}")
    return text.rstrip("/")


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _count(text: str) -> int:
    found = int(text)
    if found < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return found


if __name__ == "__main__":
    main()
