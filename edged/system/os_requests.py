"""What edged asks of the operating system: two folders between the daemon, which may nothing, and its root helper.

Below the state folder of the daemon (0700, the user `edged`):

`os/requests/<nonce>.json` is written by the daemon, whole or not at all (`durable`): the command's DSSE envelope,
byte for byte as it came over MQTT, at most 16 KiB. A systemd path unit starts the helper while the folder is not
empty (`DirectoryNotEmpty=`). `<nonce>` is that of the signed command: 16 to 64 of `0-9A-Za-z_-`. The name is only a
name: what counts is what the envelope says, which the helper verifies anew (`telemetry.commands.judge`) against an
operators.json that it trusts by itself and not because the daemon wrote it, and with a memory of nonces of its own.
The helper *takes* a request by removing it; one that is gone by then was withdrawn, and is not carried out.

`os/results/<nonce>.json` is written by the helper, whole or not at all, mode 0644, at most 64 KiB; a later one
replaces an earlier one of the same nonce. The daemon removes the last one when it has been told to the operator:

    {"schema": 1, "nonce": "8s0mT7cQ1l3uZ5yKp2hV9w", "command": "os_upgrade", "status": "accepted", "code": "",
     "text": "edge-os 42 is staged; the device restarts between 02:00 and 04:00", "details": {}, "at_ms": 1790000000000}

- `status`: `accepted`: taken, and another result follows, if only after a restart of the device; `done`: carried out,
  and where that needs a restart, this is told by the boot after it;
  `refused`: not carried out, and it will not be.
- `code`, only with `refused`: `malformed`, `too_large`, `unsigned`, `signature_invalid`, `wrong_scope`, `not_allowed`,
  `validity_too_long`, `not_yet_valid`, `expired`, `replayed`, `unknown_command`, `invalid_arguments`, `unsupported`
  (the system has no bootc), `failed` (bootc did not do it, and `text` says what it said; or it did, and the device
  runs something else after its restart; or the device's settings are wrong, so that nothing can be verified).
- `text`: for people, at most 2000 characters. `details`: an object of at most 32 KiB, such as the status after it.

`os/status.json` is written by the helper after each start of the device and before and after commands, mode 0644, at
most 64 KiB; an image that there is not is null. `boot` is the kernel's name for the boot that it was written in: what
was written in another one is not believed. `built_ms` is the image's own time stamp, 0 where it has none:

    {"schema": 1, "at_ms": 1790000000000, "boot": "2b6d1c6e-…",
     "booted": {"image": "registry.example/edge-os:41", "version": "41.20261101", "digest": "sha256:…",
                "built_ms": 1789000000000},
     "staged": null, "rollback": null}

The daemon makes both folders, 0700, when it first needs them. All of it is the daemon's to write, so what the helper
does there it does as the daemon's user: no link leads it further than the daemon gets
(docs/decisions/0021-the-operating-systems-helper-believes-no-daemon.md).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edged import durable

REQUESTS = "os/requests"
RESULTS = "os/results"
STATUS = "os/status.json"

MAX_REQUEST_BYTES = 16 * 1024
MAX_RESULT_BYTES = 64 * 1024

MOST_REQUESTS = 16
"""That wait to be taken at a time."""
MOST_RESULTS = 64
"""That are looked at; the oldest go first."""

NONCE = re.compile(r"[0-9A-Za-z_-]{16,64}")


class OsResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request, as the helper writes it."""

    schema: int = 1
    nonce: Annotated[str, Meta(pattern=rf"^{NONCE.pattern}\Z")]
    command: Annotated[str, Meta(max_length=64)]
    status: Literal["accepted", "refused", "done"]
    code: Annotated[str, Meta(max_length=64)] = ""
    text: Annotated[str, Meta(max_length=2000)] = ""
    details: dict[str, Any] = {}
    at_ms: int = 0


class OsImage(msgspec.Struct, frozen=True):
    """One deployment of the operating system."""

    image: str = ""
    version: str = ""
    digest: str = ""
    built_ms: int = 0


class OsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Which images there are, as the helper writes it."""

    schema: int = 1
    at_ms: int = 0
    boot: str = ""
    booted: OsImage | None = None
    staged: OsImage | None = None
    rollback: OsImage | None = None


class OsRequests:
    """The daemon's side. None of it is for the loop: it reads and writes files."""

    def __init__(self, state: Path, boot: str) -> None:
        """`boot` is the kernel's name for this boot."""
        self._boot = boot
        self._requests = state / REQUESTS
        self._results = state / RESULTS
        self._status = state / STATUS

    def make_folders(self) -> None:
        """Makes both folders. Raises OSError."""
        for folder in (self._requests, self._results):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def drop(self, nonce: str, envelope: bytes) -> None:
        """Hands a request to the helper. Raises OSError; OverflowError where too many wait, or it is too large."""
        if len(envelope) > MAX_REQUEST_BYTES or len(list(self._requests.glob("*.json"))) >= MOST_REQUESTS:
            raise OverflowError(f"{MOST_REQUESTS} requests of {MAX_REQUEST_BYTES} bytes may wait in {self._requests}")
        durable.write(self._requests / _name(nonce), envelope)

    def withdraw(self, nonce: str) -> bool:
        """Takes a request back; False where the helper has taken it, and will answer. Raises OSError."""
        try:
            (self._requests / _name(nonce)).unlink()
        except FileNotFoundError:
            return False
        durable.sync_folder(self._requests)
        return True

    def result(self, nonce: str) -> OsResult | None:
        """What became of a request so far; None: nothing that can be read."""
        found: OsResult | None = _read(self._results / _name(nonce), OsResult)
        return found if found is None or found.nonce == nonce else None

    def answered(self) -> list[OsResult]:
        """All results, the oldest first; what is none is removed."""
        found = []
        for path in sorted(self._results.glob("*.json"), key=lambda each: each.name)[:MOST_RESULTS]:
            result = self.result(path.stem) if NONCE.fullmatch(path.stem) else None
            if result is None:
                path.unlink(missing_ok=True)
            else:
                found.append(result)
        return sorted(found, key=lambda each: each.at_ms)

    def forget(self, nonce: str) -> None:
        """Removes a result that was told. Raises OSError."""
        (self._results / _name(nonce)).unlink(missing_ok=True)

    def status(self) -> OsStatus | None:
        """What the helper last said of the images; None where it has not in this boot."""
        found: OsStatus | None = _read(self._status, OsStatus)
        return found if found is None or found.boot == self._boot else None


def _name(nonce: str) -> str:
    if not NONCE.fullmatch(nonce):
        raise ValueError(f"{nonce[:64]!r} is no nonce")
    return f"{nonce}.json"


def _read(path: Path, kind: type[Any]) -> Any:
    """None for what is not there, no plain file, too large, or not of `kind`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            return msgspec.json.decode(file.read(MAX_RESULT_BYTES), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
