"""The image: built of its Containerfile, checked, booted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import image
from support.container import Container
from support.daemon import REPO

pytestmark = pytest.mark.skipif(bool(image.missing()), reason=image.missing() or "it can be built")

CHECK = REPO / "bootc/check_image.py"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """What is in the image."""
    images = image.store()
    try:
        images.make_base("localhost/base")
        images.build(REPO / "bootc/Containerfile", "localhost/edged", BASE="localhost/base")
        yield images.mount("localhost/edged")
    finally:
        images.remove()


def check(root: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, CHECK, root], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_the_image_passes_its_own_check(root: Path) -> None:
    assert check(root) == (0, "no fault found\n")


def test_the_bill_of_materials_names_what_is_installed(root: Path) -> None:
    told = json.loads((root / "usr/share/edged/sbom.spdx.json").read_text())
    installed = {path.name.split("-")[0].lower() for path in root.glob("usr/lib/edged/venv/lib/*/*/*.dist-info")}
    assert {package["name"].lower().replace("-", "_") for package in told["packages"]} == installed
    assert "edged" in installed


def test_it_boots_read_only_to_a_daemon_that_serves_its_factory_model(root: Path) -> None:
    booted = Container(root, "--volatile=state")
    try:
        booted.wait("systemctl is-active edged")
        assert json.loads(booted.run("edgectl status --json"))["ready"] is True
        assert booted.property("StatusText") == "serving, 1 of 1 models ready"
    finally:
        booted.stop()


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing(root: Path) -> None:  # noqa: ARG001 - with the others, in one place
    for path in sorted((REPO / "bootc").rglob("Containerfile*")):
        done = subprocess.run(["hadolint", path], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
