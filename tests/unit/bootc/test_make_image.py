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


@pytest.mark.parametrize("image", [("overlay", "CLASS=coral"), ("container", "BASE=base@sha256:0")])
def test_what_stands_on_it_or_beside_it_has_the_time_of_its_commit_too(image: tuple[str, str]) -> None:
    time = run("git", "log", "-1", "--format=%ct").stdout.strip()
    words = run("make", "--dry-run", *image).stdout.split()
    assert words[words.index("--timestamp") + 1] == time
    assert f"SOURCE_DATE_EPOCH={time}" in words
    assert (REPO / words[words.index("-f") + 1]).is_file()


def test_the_engine_of_an_overlay_is_that_of_its_class_or_the_one_asked_for() -> None:
    overlay = ("make", "--dry-run", "overlay", "CLASS=factory-gateway-gpu")
    assert "ENGINE=none" in run(*overlay, "ENGINE=none").stdout.split()
    assert "ENGINE=" not in run(*overlay).stdout


@pytest.mark.parametrize("asked", ["image BASE=", "container BASE=", "overlay CLASS="])
def test_without_what_it_is_built_on_or_for_it_says_what_is_missing(asked: str) -> None:
    done = run("make", *asked.split())
    assert done.returncode != 0
    assert f"make {asked}" in done.stderr
