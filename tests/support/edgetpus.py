"""An Edge TPU where there is none: a library that stands in for libedgetpu.so.1, built from edgetpu.c beside this."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

LIBRARY = "libedgetpu.so.1"


def build_library(folder: Path) -> Path:
    """Puts the library into `folder`, for LD_LIBRARY_PATH; gives the folder. Skips the test where nothing compiles."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("edgetpu.c")
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / LIBRARY), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder
