"""A fleet's folder: what is served, the keys, and how long signatures last.

fleet.toml       its name and the days that each role's signature lasts
keys/            private keys, each under a passphrase; those of the offline roles belong elsewhere
pending/         edits that still lack a signature
repository/      what devices fetch from; the only part that is served
.making          only while `init` fills it
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edged import document, durable, schema
from edged.bundle.toml import emit
from edged.errors import Code, EdgedError
from edged.types import ModelName

SETTINGS_NAME = "fleet.toml"
MAKING_NAME = ".making"
"""Stands in the folder until `init` has made all of it."""

_DAYS = {"unit": "days"}
Days = Annotated[int, Meta(ge=1, le=3650, extra=_DAYS)]


class Expiry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long a new signature of each role lasts."""

    root: Days = 365
    targets: Days = 365
    models: Days = 365
    plans: Days = 365
    snapshot: Days = 30
    timestamp: Days = 30


class FleetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `fleet.toml` says."""

    name: ModelName
    expiry_days: Expiry = Expiry()


class Home:
    """The folder of one fleet."""

    def __init__(self, folder: Path, *, made: bool = True) -> None:
        """Reads its settings; `made`: `init` has ended there.

        Raises EdgedError (repository_invalid) where it is no fleet's folder.
        """
        self.folder = folder
        if made and (folder / MAKING_NAME).exists():
            raise EdgedError(Code.REPOSITORY_INVALID, f"{folder}: `edgectl fleet init` did not end", "run it again")
        if not (folder / SETTINGS_NAME).exists():
            hint = "make one with `edgectl fleet init`, or name it with --fleet or EDGED_FLEET"
            raise EdgedError(Code.REPOSITORY_INVALID, f"{folder}: has no {SETTINGS_NAME}", hint)
        read = document.read(folder / SETTINGS_NAME, Code.REPOSITORY_INVALID)
        problems = list(read.problems(FleetSettings))
        if problems:
            raise document.DocumentError(Code.REPOSITORY_INVALID, problems)
        self.settings = msgspec.convert(read.data, FleetSettings)
        self.keys = folder / "keys"
        self.pending = folder / "pending"
        self.repository = folder / "repository"
        self.metadata = self.repository / "metadata"
        self.targets = self.repository / "targets"

    def locked(self) -> AbstractContextManager[None]:
        """Held while the folder is changed. Raises EdgedError (already_running) where another command changes it."""
        return alone(self.folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Held by one command at a time. Raises EdgedError (already_running) where another has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = f"another command works on {folder}"
            raise EdgedError(Code.ALREADY_RUNNING, found, "wait until it has ended") from error
        yield
    finally:
        os.close(descriptor)


def write_settings(folder: Path, settings: FleetSettings) -> None:
    """Writes `fleet.toml`. Raises OSError."""
    durable.write(folder / SETTINGS_NAME, emit(msgspec.to_builtins(settings)).encode(), mode=0o644)


def expiring(settings: FleetSettings, role: str, days: int) -> FleetSettings:
    """The settings with another period for one role. Raises EdgedError where that cannot be."""
    data = msgspec.to_builtins(settings)
    data["expiry_days"][role] = days
    for misfit in schema.misfits(data, FleetSettings):
        raise EdgedError(Code.INVALID_ARGUMENT, f"{schema.dotted(misfit.key)}: {misfit.found}", misfit.remedy)
    return msgspec.convert(data, FleetSettings)
