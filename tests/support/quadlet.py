"""Podman's Quadlet of a release that knows what our units use, taken out of its package; nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from support import container
from support.container import CACHE


def generate(units: Path) -> str:
    """The services that Quadlet makes of a folder of its units. Fails where it finds fault with one."""
    root = _package()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    done = subprocess.run(
        [
            libraries / "ld-linux-x86-64.so.2",
            "--library-path",
            libraries,
            root / "usr/libexec/podman/quadlet",
            "-dryrun",
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "QUADLET_UNIT_DIRS": str(units)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _package() -> Path:
    """What podman's package and those that it needs hold; made once."""
    folder = CACHE / "podman"
    if not folder.exists():
        container.base()  # for its sources
        made, making = CACHE / "podman.tar", CACHE / "podman.making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        command = ["mmdebstrap", "--variant=extract", "--include=podman", "trixie", made, CACHE / "base.sources"]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        subprocess.run(["tar", "-xf", made, "-C", making, "./usr/lib", "./usr/libexec"], check=True)
        made.unlink()
        making.rename(folder)
    return folder
