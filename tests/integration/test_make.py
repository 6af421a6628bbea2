"""What `make` sets up, with stand-ins for python and pip: whole or not at all, and said in few words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
ENVIRONMENTS = [".venv", ".venv-tritonclient"]

# Makes an environment that does nothing; does half of it while a file `broken` lies there. `-c` asks for its version.
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
[ "$1 $2" = "-m venv" ] || exit 9
shift 2
[ "$1" = --clear ] && shift && rm -rf "$1"
mkdir -p "$1/bin"
touch "$1/bin/python"
[ -e broken ] && { echo "Error: ensurepip is not available"; exit 1; }
printf '#!/bin/sh\\necho "$@" >> "%s/asked"\\n' "$1" > "$1/bin/pip"
chmod +x "$1/bin/pip"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout as far as make looks at it."""
    shutil.copy(REPO / "Makefile", tmp_path)
    for name in (
        "requirements.lock",
        "requirements-build.lock",
        "pyproject.toml",
        "tests/tritonclient/requirements.lock",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make, without what a make that runs these tests would hand down."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "PYTHON=./python", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_that_cannot_be_made_leaves_nothing_and_says_what_to_do(checkout: Path, environment: str):
    (checkout / "broken").touch()
    done = make(checkout, f"{environment}/.installed")
    assert done.returncode != 0
    assert f"{environment} cannot be made: install python3-venv (Debian, Ubuntu) or set PYTHON=…" in done.stderr
    assert not (checkout / environment).exists()
    (checkout / "broken").unlink()
    assert make(checkout, f"{environment}/.installed").returncode == 0
    assert (checkout / environment / ".installed").exists()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_that_was_left_half_made_is_made_anew(checkout: Path, environment: str):
    """By an edged of old, or one that was interrupted."""
    (checkout / environment / "bin").mkdir(parents=True)
    (checkout / environment / "bin/python").touch()
    (checkout / environment / "half").touch()
    done = make(checkout, f"{environment}/.installed")
    assert done.returncode == 0, done.stderr
    assert (checkout / environment / ".installed").exists()
    assert not (checkout / environment / "half").exists()


def test_it_says_beforehand_what_takes_long_and_is_silent_when_all_is_there(checkout: Path):
    said = make(checkout, ".venv/.installed").stdout.splitlines()
    assert said == ["making .venv", "installing edged into .venv (about a minute)"]
    assert make(checkout, "--silent", ".venv/.installed").stdout == ""
    asked = (checkout / ".venv/asked").read_text().splitlines()
    assert [line.split(" install ")[1] for line in asked] == [
        "--require-hashes -r requirements-build.lock",
        "--require-hashes -r requirements.lock",
        "--no-deps --no-build-isolation --editable .",
    ]


def wheel(folder: Path) -> None:
    """A package `nothing` of no use."""
    meta = "nothing-1.dist-info"
    with zipfile.ZipFile(folder / "nothing-1-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{meta}/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1\n")
        archive.writestr(f"{meta}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{meta}/RECORD", "")


@pytest.mark.parametrize(("package", "complaint"), [("nothing", ""), ("anything", "No matching distribution found")])
def test_pip_says_what_fails_and_nothing_of_indexes_that_have_less(checkout: Path, package: str, complaint: str):
    make(checkout, ".venv/.installed")
    options = (checkout / ".venv/asked").read_text().split(" install ")[0].split()
    wheel(checkout)
    done = subprocess.run(
        [sys.executable, "-m", "pip", *options, "install", "--dry-run", "--no-index", "--no-cache-dir", package],
        env={**os.environ, "PIP_FIND_LINKS": f"{checkout} {checkout}/none file:///none/simple"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) is bool(complaint)
    assert complaint in done.stderr
    assert "is ignored" not in done.stderr
    assert done.stdout == ""
    assert complaint or not done.stderr
