"""edged's own image, built of its Containerfile on a base that is made here, with buildah."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from support import container
from support.container import CACHE
from support.daemon import REPO

# What the images of the tests are built for: the time and the version of a commit.
EPOCH, VERSION = "1767225600", "0.1.0+tests"

# Works without the right to raise limits, without a network of its own, and without a logging service.
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024", "memlock=65536:65536"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def build_context(into: Path, root_of_trust: Path) -> Path:
    """The part of the checkout that a build sees, with a fleet's root of trust in it."""
    wanted = re.findall("^!(.+)$", (REPO / ".containerignore").read_text(), re.MULTILINE)
    for path in sorted(path for pattern in wanted for path in REPO.glob(pattern)):
        to = into / path.relative_to(REPO)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, to)
    shutil.copy(root_of_trust, into / "bootc/trust/root.json")
    return into


def missing() -> str:
    """Why no image can be built here; empty when one can."""
    return container.missing() or ("" if shutil.which("buildah") else "buildah is not installed")


class Images:
    """A store of images of this test run alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        storage, settings = folder / "storage.conf", folder / "containers.conf"
        storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
        settings.write_text(_SETTINGS)
        self._folder = folder
        own = {"CONTAINERS_STORAGE_CONF": storage, "CONTAINERS_CONF": settings, "STORAGE_DRIVER": "overlay"}
        self._environment = {**os.environ, **{name: str(path) for name, path in own.items()}}

    def buildah(self, *arguments: object, timeout_s: float = 600) -> str:
        """Runs buildah; gives what it printed."""
        done = subprocess.run(
            ["buildah", *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self._environment,
        )
        assert done.returncode == 0, f"buildah {arguments}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def make_base(self, name: str) -> None:
        """An image of the minimal Debian with systemd."""
        working = self.buildah("from", "scratch")
        self.buildah("add", "-q", working, container.base(), "/")
        self.buildah("commit", "-q", working, name)
        self.buildah("rm", working)

    def build(self, containerfile: Path, name: str, *locks: str, context: Path = REPO, **arguments: str) -> None:
        """Builds an image of the checkout, or of `context`, with packages from a folder of wheels that `locks` pin."""
        own = {"SOURCE_DATE_EPOCH": EPOCH, "VERSION": VERSION, "LINT": "true"}
        given = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheelhouse", **own, **arguments}
        options = [part for key, value in given.items() for part in ("--build-arg", f"{key}={value}")]
        wheels = f"{container.wheels(*locks)}:/wheelhouse:ro"
        how = ("--isolation=chroot", "--timestamp", EPOCH, "-v", wheels)
        self.buildah("build", *how, *options, "-f", containerfile, "-t", name, context)

    def mount(self, name: str) -> Path:
        """What is in an image, as a folder."""
        return Path(self.buildah("mount", self.buildah("from", "--pull-never", name)))

    def remove(self) -> None:
        """Removes the store and all that is in it."""
        self.buildah("rm", "--all")
        shutil.rmtree(self._folder)


def store() -> Images:
    """An empty store, in place of what an interrupted run left."""
    folder = CACHE / "images"
    if folder.exists():
        subprocess.run(["umount", "--quiet", folder / "graph/overlay"], check=False, capture_output=True)
        shutil.rmtree(folder)
    return Images(folder)
