"""A disk that is full, or does not sync, at a start and in the middle of an update: serving goes on."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from support.daemon import Daemon
from support.faulty_disk import COMPILER, SYNCS, WRITES, FaultyDisk, build
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.polling import until
from support.updating import MODEL, Updating, scale_bundle

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system: needs root")
needs_gcc = pytest.mark.skipif(COMPILER is None, reason="gcc is not installed")


class Setting:
    """A fleet that wants revision 2 of devices that have revision 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / "fleet")
        self.first = scale_bundle(folder / "factory", 1, factor=2.0)
        self.fleet.publish(scale_bundle(folder / "bundles", 2, factor=3.0))
        self.fleet.plan(MODEL, 2)
        self.interpreter = hostile_interpreter(folder / "python", "impatient_site")
        self.library = build(folder) if COMPILER else None
        self.most = self.count() if COMPILER else {}

    def device(self, root: Path) -> Daemon:
        """A new one."""
        return Daemon(root, [self.first], self.fleet.trusted_by(root), self.interpreter)

    def count(self) -> dict[int, int]:
        """How many things of each kind an update does."""
        root = self.folder / "count"
        with self.disk(root) as disk, self.device(root) as daemon:
            daemon.start(environment=disk.environment)
            Updating(daemon).wait_idle_at(2)
            return {kind: disk.done(kind) for kind in (WRITES, SYNCS)}

    @contextmanager
    def disk(self, root: Path) -> Iterator[FaultyDisk]:
        """The disk under a device's state."""
        root.mkdir(parents=True)
        assert self.library is not None
        disk = FaultyDisk(self.library, root / "disk", root / "var/lib/edged")
        try:
            yield disk
        finally:
            disk.close()


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    return Setting(tmp_path_factory.mktemp("disks"))


def serves_whole(updating: Updating) -> int:
    """Looks at what serves; gives its revision."""
    answer, revision = updating.answers()
    assert (answer, revision) in (([2.0, 4.0], 1), ([3.0, 6.0], 2))
    return revision


def fails_at(setting: Setting, root: Path, kind: int, number: int) -> None:
    """Has a disk fail from its `number`-th write or sync on, become good again, and the update come to its end."""
    with setting.disk(root) as disk, setting.device(root) as daemon:
        disk.fail(kind, number)
        daemon.start(environment=disk.environment)
        updating = Updating(daemon)
        # A disk that fails is no change of the status, and so cannot be watched.
        until(lambda: disk.done(kind), "the disk fails", holds=lambda done: done >= number, log=daemon.log)
        serves_whole(updating)
        with_fault = list(daemon.status().degraded_reasons)
        disk.heal()
        if any("journal" in reason for reason in with_fault):  # opened as a copy: the next start takes it again
            daemon.stop()
            daemon.told.clear()
            daemon.start(environment=disk.environment)
            serves_whole(updating)
        updating.look()
        updating.wait_idle_at(2)
        assert serves_whole(updating) == 2
        daemon.stop()
        daemon.told.clear()
        daemon.start()
        assert serves_whole(updating) == 2
        assert not daemon.status().degraded_reasons


def numbers(most: int, sample: int) -> list[int]:
    """Some of 1 … most, by a seed that is told."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed} of {most}")  # noqa: T201
    return random.Random(seed).sample(range(1, most + 1), sample)


@needs_gcc
@pytest.mark.parametrize("kind", [WRITES, SYNCS], ids=["full", "unable to sync"])
class TestADiskThatFails:
    def test_at_some_place(self, setting, tmp_path, kind):
        (number,) = numbers(setting.most[kind], 1)
        print(number)  # noqa: T201
        fails_at(setting, tmp_path / str(number), kind, number)

    @pytest.mark.slow
    def test_at_every_place(self, setting, tmp_path, kind):
        for number in range(1, setting.most[kind] + 1):
            print(number)  # noqa: T201
            fails_at(setting, tmp_path / str(number), kind, number)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system in memory on `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(["mode=700", *options]), "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), str(folder)], check=True)


@needs_root
class TestASmallFileSystem:
    """What the fetcher writes too meets its end."""

    def has_no_room(self, setting: Setting, root: Path, option: str, enough: str) -> None:
        with mounted(root / "var/lib/edged", option) as state, setting.device(root) as daemon:
            daemon.start()
            updating = Updating(daemon)
            with contextlib.suppress(grpc.RpcError):  # there may be no room for the plan either
                updating.look()
            updating.wait(lambda model: model.phase == "idle" or bool(model.deferred))
            serves_whole(updating)
            remount(state, enough)
            daemon.stop()
            daemon.told.clear()
            daemon.start()
            updating.look()
            updating.wait_idle_at(2)
            assert serves_whole(updating) == 2

    @pytest.mark.parametrize("inodes", [14, *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 44))])
    def test_has_no_more_inodes(self, setting, tmp_path, inodes):
        self.has_no_room(setting, tmp_path, f"nr_inodes={inodes}", "nr_inodes=0")

    @pytest.mark.parametrize("kib", [160, *(pytest.param(n, marks=pytest.mark.slow) for n in range(16, 264, 8))])
    def test_is_full(self, setting, tmp_path, kib):
        self.has_no_room(setting, tmp_path, f"size={kib}k", "size=100m")
