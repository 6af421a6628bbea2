"""What the tests of this folder share: a device that is sound."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import sound_device


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A device on which all is as it should be."""
    sound_device.make(tmp_path)
    return tmp_path
