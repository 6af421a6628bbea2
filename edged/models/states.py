"""Where a revision stands, where its bundle lies, and what it lost."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from edged.bundle.manifest import Manifest, Variant
from edged.worker import process


class State(StrEnum):
    """Where a resident stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    UNAVAILABLE = "unavailable"


class Source(msgspec.Struct, frozen=True):
    """A bundle on disk that may be loaded, and where it came from (`factory`)."""

    folder: Path
    manifest: Manifest
    origin: str


class Lost(msgspec.Struct, frozen=True):
    """A worker that could not be ended: what it holds stays charged to its model until it goes after all."""

    variant: Variant
    worker: process.Worker
