"""Every benchmark can be started: nothing else runs most of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.models import REPO

STARTED = [path for path in (REPO / "benchmarks").glob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("path", STARTED, ids=lambda path: path.stem)
def test_it_tells_what_it_takes(path):
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, cwd=REPO, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
