"""A repository held against its own signatures, as a device that knows nothing would meet it: all of it is read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from edged import clock
from edged.bundle.manifest import Chunk
from edged.errors import Code, EdgedError
from edged.types import Operators
from edged.update.assemble import check_chunks
from edged.update.plan import ClassPlan
from edged.update.repository import Repository
from edged.update.transport import Terms, Transport
from edged.update.trusted import Trusted

_MANIFEST = re.compile(r"models/(?P<model>[^/]+)/(?P<revision>[1-9][0-9]{0,15})\.json", re.ASCII)
_PLAN = re.compile(r"plans/(?P<fleet>[^/]+)\.json", re.ASCII)

# Said to who looks after the repository: the hints that come with these are for who looks after a device.
_HINTS = {
    Code.DOWNLOAD_FAILED: "look at what lies there, and at the way to it",
    Code.SIGNATURE_INVALID: "no device takes it: bring it back from a copy of the repository",
}


class Verified(msgspec.Struct):
    """What was found. Without problems the repository is whole."""

    problems: list[str]
    expires: dict[str, datetime]
    """By role; the bins are not named one by one."""
    revisions: list[tuple[str, int]]
    chunks: int = 0
    chunk_bytes: int = 0
    """What the chunks hold, each counted once."""


def verify(
    url: str,
    root: bytes,
    *,
    in_part: bool = False,
    now: datetime | None = None,
    told: Callable[[int, int], None] = lambda _done, _total: None,
) -> Verified:
    """Reads the repository behind `url`, trusting `root` alone. `told` is called with chunks done and chunks in all.

    `in_part`: an export holds some revisions of those that are listed; one without its manifest is passed over. Raises
    EdgedError where the metadata itself is refused.
    """
    with tempfile.TemporaryDirectory(prefix="edged-verify-") as folder:
        transport = Transport(Terms())
        trusted = Trusted(Path(folder), f"{url}/metadata", transport, root=root, system_time=now or clock.wall())
        try:
            trusted.refresh()
            return _Reading(url, trusted, transport, in_part=in_part).run(told)
        except EdgedError as error:
            raise _for_operator(error) from error


class _Reading:
    def __init__(self, url: str, trusted: Trusted, transport: Transport, *, in_part: bool) -> None:
        self._trusted = trusted
        self._repository = Repository(url, trusted, transport)
        self._in_part = in_part
        self._found = Verified([], {}, [])
        self._chunks: dict[str, Chunk] = {}

    def run(self, told: Callable[[int, int], None]) -> Verified:
        listed = self._trusted.listed()
        for path in listed:
            if named := _MANIFEST.fullmatch(path):
                self._manifest(named["model"], int(named["revision"]))
        for path in listed:
            if named := _PLAN.fullmatch(path):
                self._attempt(partial(self._plan, named["fleet"]))
        self._attempt(self._operators)
        for done, (digest, chunk) in enumerate(sorted(self._chunks.items())):
            told(done, len(self._chunks))
            self._attempt(partial(self._repository.chunk, digest, chunk.length))
        expires = self._trusted.expires()
        self._found.expires = {role: at for role, at in expires.items() if not role.startswith("models-")}
        self._found.chunks = len(self._chunks)
        self._found.chunk_bytes = sum(chunk.length for chunk in self._chunks.values())
        return self._found

    def _attempt(self, step: Callable[[], object]) -> None:
        try:
            step()
        except EdgedError as error:
            self._found.problems.append(str(_for_operator(error)))

    def _manifest(self, model: str, revision: int) -> None:
        try:
            manifest = self._repository.manifest(model, revision)
            check_chunks(manifest)
        except EdgedError as error:
            below = error.code is Code.ROLLBACK_ATTACK  # published once, and no longer allowed
            missing = self._in_part and error.code is Code.DOWNLOAD_FAILED
            if not below and not missing:
                self._found.problems.append(str(_for_operator(error)))
            return
        self._found.revisions.append((model, revision))
        self._chunks.update({chunk.sha256: chunk for file in manifest.files for chunk in file.chunks})

    def _operators(self) -> None:
        raw = self._repository.operators()
        try:
            if raw is not None:
                msgspec.json.decode(raw, type=Operators)
        except msgspec.MsgspecError as error:
            self._found.problems.append(f"operators.json is not what devices take: {error}")

    def _plan(self, fleet: str) -> None:
        for model, classes in self._repository.plan(fleet).models.items():
            for name, terms in classes.items():
                for revision in sorted(named_revisions(terms)):
                    if (model, revision) not in self._found.revisions and not self._in_part:
                        found = f"the plan of {fleet} has {name} run {model} revision {revision}, which cannot be had"
                        self._found.problems.append(found)


def _for_operator(error: EdgedError) -> EdgedError:
    return EdgedError(error.code, error.message, _HINTS.get(error.code, error.hint))


def named_revisions(terms: ClassPlan) -> set[int]:
    """Every revision that a class may be asked to run."""
    rollout = {terms.rollout.revision} if terms.rollout else set()
    return {terms.revision, *terms.pins.values(), *rollout}
