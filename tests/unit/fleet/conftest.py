"""A chunk that is not there is asked for without much waiting."""

import pytest


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Before a chunk is asked for again."""
    monkeypatch.setattr("edged.update.repository._PAUSES_S", (0.01, 0.01))
