"""What the journal and its marker files hold, and how it is read back whoever wrote it. Pure.

Releases before and after this one read and write the same records: fields are only ever added, unknown ones are passed
over, and a phase that this release does not know leads back to the revision before.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from edged.update.machine import Phase, Ref, State

_Record = TypeVar("_Record", bound=msgspec.Struct)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """Under what circumstances a variant was found wanting: another driver or a mended OS is another matter."""

    digest: str
    variant: str
    runtime: str
    """The engine and its version: `onnxruntime 1.20.1`."""
    driver: str = ""
    os_image: str = ""

    @property
    def name(self) -> str:
        """A name for it, the same each time."""
        parts = (self.digest, self.variant, self.runtime, self.driver, self.os_image)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A variant that is not tried again under its key until somebody releases it."""

    key: Key
    model: str
    revision: int
    reason: str
    text: str
    at: datetime


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A revision that this device's own administrator, or a command, wants instead of the plan's."""

    model: str
    revision: int
    cause: str
    """pin, rollback or install."""
    at: datetime


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What a model serves when nothing is under way, and the signed floor that no revision may lie below."""

    model: str
    serving: Ref
    previous: Ref | None = None
    floor: int = 1


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the history: what happened to a model's update, and on what evidence."""

    at: datetime
    model: str
    revision: int
    before: str
    event: str
    after: str
    cause: str = ""
    reason: str = ""
    text: str = ""
    evidence: dict[str, Any] = {}
    sequence: int = 0
    """Its place in the history; given by the journal."""


class DamagedError(ValueError):
    """A record that is not what was written."""


def seal(kind: str, name: str, document: bytes) -> str:
    """What tells a record that was changed by a failing disk from the one that was written."""
    return hashlib.sha256(b"\0".join((kind.encode(), name.encode(), document))).hexdigest()


def read(document: bytes, kind: type[_Record]) -> _Record:
    """A record. Raises DamagedError."""
    try:
        return msgspec.json.decode(document, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamagedError(f"it is no {kind.__name__}: {error}") from error


def read_state(document: bytes) -> State:
    """A model's state; one in an unknown phase goes back to the revision before. Raises DamagedError."""
    try:
        data = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"it is no state: {error}") from error
    if isinstance(data, dict) and data.get("phase", Phase.IDLE) not in set(Phase):
        data = {
            "model": data.get("model"),
            "serving": data.get("previous") or data.get("serving"),
            "previous": data.get("older"),
        }
    try:
        return msgspec.convert(data, State)
    except msgspec.ValidationError as error:
        raise DamagedError(f"it is no state: {error}") from error
