"""edged's own image, built of its Containerfile on a base that is made here, with buildah."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from support import container
from support.container import CACHE
from support.daemon import REPO

# Works without the right to raise limits, without a network of its own, and without a logging service.
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024", "memlock=65536:65536"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


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
        given = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheelhouse", "LINT": "true", **arguments}
        options = [part for key, value in given.items() for part in ("--build-arg", f"{key}={value}")]
        wheels = f"{container.wheels(*locks)}:/wheelhouse:ro"
        self.buildah("build", "--isolation=chroot", "-v", wheels, *options, "-f", containerfile, "-t", name, context)

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
