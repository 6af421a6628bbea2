"""What tests of fetching and publishing need not wait for."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What syncing does shows only after a power cut of the machine, and no test here makes one; it takes a minute."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a chunk is asked for again."""
    monkeypatch.setattr("edged.update.repository._PAUSES_S", (0.01, 0.01))
