"""What `make image` would run."""

from __future__ import annotations

import subprocess

import pytest
from support.daemon import REPO

from edged import __version__

pytestmark = pytest.mark.skipif(not (REPO / ".git").exists(), reason="not a checkout, so no commit has a time")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPO)


def test_an_image_has_the_time_and_the_version_of_its_commit() -> None:
    time, commit = run("git", "log", "-1", "--format=%ct %h").stdout.split()
    words = run("make", "--dry-run", "image", "BASE=base@sha256:0").stdout.split()
    assert words[words.index("--timestamp") + 1] == time
    assert {f"SOURCE_DATE_EPOCH={time}", f"VERSION={__version__}+{commit}", "BASE=base@sha256:0"} <= set(words)


def test_without_a_base_it_says_what_is_missing() -> None:
    done = run("make", "image")
    assert done.returncode != 0
    assert "make image BASE=" in done.stderr
