"""What tests of fetching and publishing need not wait for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def no_syncs() -> Iterator[None]:
    """What syncing does shows only after a power cut of the machine, and no test here makes one; it takes a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(os, "fdatasync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def unsynced() -> Iterator[None]:
    """As `no_syncs`."""
    with no_syncs():
        yield


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a chunk is asked for again."""
    monkeypatch.setattr("edged.update.repository._PAUSES_S", (0.01, 0.01))
