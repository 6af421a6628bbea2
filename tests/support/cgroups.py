"""Control groups for tests: a tree of files as the kernel would show it, and real ones where the kernel gives them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

MOUNT = Path("/sys/fs/cgroup")


def tree(
    root: Path,
    *,
    own: str = "/system.slice/edged.service/front",
    controllers: str = "cpu memory pids",
    on: str = "memory pids",
    delegated: bytes | None = b"1",
) -> Path:
    """Lays out /proc and /sys below `root` for a process in the group `own`; gives the group above it."""
    mount = root / "sys/fs/cgroup"
    folder = mount / own.strip("/")
    folder.mkdir(parents=True)
    (mount / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    inner = folder.parent
    (inner / "cgroup.controllers").write_text(f"{controllers}\n")
    (inner / "cgroup.subtree_control").write_text(f"{on}\n")
    if delegated is not None:
        try:
            os.setxattr(inner, "user.delegate", delegated)
        except OSError as error:
            pytest.skip(f"files in {root} take no attributes: {error.strerror}")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    return inner


def real_mount() -> Path:
    """Where cgroup v2 is mounted, by itself or beside v1; skips where no group can be made."""
    for mount in (MOUNT, MOUNT / "unified"):
        if (mount / "cgroup.procs").exists() and os.access(mount, os.W_OK):
            return mount
    pytest.skip("no cgroup v2 that groups can be made in")


def real_folder() -> Iterator[Path]:
    """A real group, without controllers, gone again afterwards."""
    folder = real_mount() / f"edged-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup v2 that groups can be made in: {error}")
    yield folder
    _remove(folder)


def delegated() -> Iterator[Path]:
    """This process in a subgroup of a real group that is delegated with its memory controller, and back afterwards."""
    mount = real_mount()
    if "memory" not in (mount / "cgroup.controllers").read_text().split():
        pytest.skip("the memory controller is not one of cgroup v2 here")
    before = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    (mount / "cgroup.subtree_control").write_text("+memory +pids")
    inner = mount / f"edged-test-{os.getpid()}"
    (inner / "front").mkdir(parents=True)
    os.setxattr(inner, "user.delegate", b"1")
    (inner / "front/cgroup.procs").write_text(str(os.getpid()))
    try:
        yield inner
    finally:
        (mount / before / "cgroup.procs").write_text(str(os.getpid()))
        _remove(inner)


def _remove(folder: Path) -> None:
    """Ends what is in a group and those below it, and removes them."""
    if (folder / "cgroup.kill").exists():
        (folder / "cgroup.kill").write_text("1")
    for below, _, _ in os.walk(folder, topdown=False):
        Path(below).rmdir()


def forget(folder: Path) -> None:
    """What the kernel does when a group of a laid-out tree is removed: its files go with it."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
