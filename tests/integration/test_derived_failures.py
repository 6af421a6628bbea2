"""Builds that go wrong: whatever an engine does as it builds, the portable variant serves, and it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import PATIENCE_S, Daemon, add_bundle
from support.deriving import BEST, NAME, PORTABLE, answer, cached, runs, twice_bundle
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.updating import Updating

from edged._pb.edged.v1 import admin_pb2 as pb
from edged._pb.edged.v1 import update_pb2 as up
from edged.worker import landlock

# What an engine does, and the code by which that is told.
BUILDS = {
    "hang": "worker_hang",
    "segfault": "worker_crashed",
    "allocate": "worker_crashed",
    "fail": "load_failed",
    "write": "worker_crashed",
}
SETTINGS = "[workers]\nbuild_s = 3\nderived_mib = 1\n"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_interpreter(tmp_path_factory.mktemp("python"))


def codes(status: pb.Status, name: str) -> list[tuple[str, str]]:
    """The variants of a model that do not serve, each with its code."""
    (model,) = [model for model in status.models if model.name == name]
    return [(passed.variant, passed.code) for passed in model.passed_over]


def test_whatever_a_build_does_the_portable_one_serves(tmp_path: Path, interpreter: Path) -> None:
    outside = tmp_path / "outside"
    caps = "caps = { memory_mib = 160 }\n"
    bundles = [
        twice_bundle(tmp_path, name=name, building={"building": name, "path": str(outside)}, extra=caps)
        for name in BUILDS
    ]
    with Daemon(tmp_path / "root", bundles, SETTINGS, interpreter) as daemon:
        daemon.start()
        status = daemon.wait_for(lambda status: all(codes(status, name) == [(BEST, BUILDS[name])] for name in BUILDS))
        assert all(runs(status, PORTABLE, name) for name in BUILDS)
        assert [answer(daemon, name) for name in BUILDS] == [[2.0, 4.0]] * len(BUILDS)
        told = {event.subject: event.details["reason"] for event in daemon.events("build_failed")}
        assert told == BUILDS
        assert not cached(daemon.root)
        assert not outside.exists()
        shown = subprocess.run(
            [sys.executable, "-m", "edged.ctl.main", "--root", str(daemon.root), "models"],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        ).stdout
        assert "hang: variant built is passed over: building took longer than 3 s" in shown


def test_what_its_engine_does_not_take_is_built_once_more_and_no_third_time(tmp_path: Path, interpreter: Path) -> None:
    building = {"loading": "refuse"}
    with Daemon(tmp_path / "root", [twice_bundle(tmp_path, building=building)], "", interpreter) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: codes(status, NAME) == [(BEST, "load_failed")])
        assert answer(daemon) == [2.0, 4.0]
        assert len(daemon.events("variant_built")) == 2
        assert not cached(daemon.root)


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path, interpreter: Path) -> None:
    bundle = twice_bundle(tmp_path, building={"size": 2**20 + 1})
    with Daemon(tmp_path / "root", [bundle], SETTINGS, interpreter) as daemon:
        daemon.start()
        daemon.wait_for(lambda _: bool(daemon.events("build_failed")))
        (failed,) = daemon.events("build_failed")
        assert failed.details["reason"] == "storage_full"
        assert "workers.derived_mib" in failed.message
        assert codes(daemon.status(), NAME) == [(BEST, "not_built")], "it is tried again"
        assert answer(daemon) == [2.0, 4.0]
        assert not cached(daemon.root)


def test_the_longest_unused_makes_room_and_what_is_in_use_does_not(tmp_path: Path, interpreter: Path) -> None:
    size = 600 * 1024
    with Daemon(tmp_path / "root", [twice_bundle(tmp_path, building={"size": size})], SETTINGS, interpreter) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: runs(status, BEST))
        (first,) = cached(daemon.root)
        daemon.stop()
        daemon.told.clear()

        other = twice_bundle(tmp_path / "other", name="other", building={"size": size, "for": "other"})
        add_bundle(daemon.root, other)
        daemon.start()
        daemon.wait_for(lambda _: bool(daemon.events("build_failed")))
        assert cached(daemon.root) == [first]
        assert runs(daemon.status(), PORTABLE, "other")
        daemon.stop()
        daemon.told.clear()

        shutil.rmtree(daemon.root / "usr/share/edged/models" / NAME)
        daemon.start()
        daemon.wait_for(lambda status: runs(status, BEST, "other"))
        (second,) = cached(daemon.root)
        assert second != first


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The cache folder of a root, on a disk of its own."""
    folder = tmp_path / "root/var/cache/edged"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "edged-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("reserve_mib", [0, 1])
def test_a_full_disk_leaves_the_portable_one(
    tmp_path: Path, interpreter: Path, small_disk: Path, reserve_mib: int
) -> None:
    bundle = twice_bundle(tmp_path, building={"size": 2**20})
    settings = f"[update]\nreserve_mib = {reserve_mib}\n"
    with Daemon(tmp_path / "root", [bundle], settings, interpreter) as daemon:
        daemon.start()
        daemon.wait_for(lambda _: bool(daemon.events("build_failed")))
        assert daemon.events("build_failed")[0].details["reason"] == "storage_full"
        assert answer(daemon) == [2.0, 4.0]
        assert not cached(daemon.root)
        assert os.statvfs(small_disk).f_bavail, "what could not be finished is gone"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_cache_that_cannot_be_written_leaves_the_portable_one(
    tmp_path: Path, interpreter: Path, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with Daemon(tmp_path / "root", [twice_bundle(tmp_path, building={})], "", interpreter) as daemon:
        daemon.start()
        daemon.wait_for(lambda _: bool(daemon.events("build_failed")))
        assert "Read-only file system" in daemon.events("build_failed")[0].message
        assert answer(daemon) == [2.0, 4.0]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_on_trial_a_full_disk_is_no_fault_of_the_revision(tmp_path: Path, interpreter: Path, small_disk: Path) -> None:
    fleet, root = Fleet(tmp_path / "fleet"), tmp_path / "root"
    first = twice_bundle(tmp_path / "factory", building={})
    with Daemon(root, [first], fleet.trusted_by(root), interpreter) as daemon:
        updating = Updating(daemon.start())
        daemon.wait_for(lambda status: runs(status, BEST))
        fleet.publish(twice_bundle(tmp_path / "next", 2, building={"size": 2**20}))
        fleet.plan(NAME, 2)
        updating.look()
        waits = updating.wait(lambda model: model.phase == "trial" and "it is tried again" in model.deferred, NAME)
        assert "1048576 bytes, cannot be written" in waits.deferred
        assert not updating.call("ListQuarantine", up.ListQuarantineRequest(), up.ListQuarantineResponse).quarantined
        assert len(list((small_disk / "derived").iterdir())) == 1, "what could not be finished is gone"
        assert runs(daemon.status(), BEST), "revision 1 goes on"
        assert answer(daemon) == [2.0, 4.0]


@pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
def test_a_worker_reads_what_was_built_for_it_and_for_nobody_else(tmp_path: Path, interpreter: Path) -> None:
    building = {"loading": "peek", "cache": str(tmp_path / "root/var/cache/edged/derived")}
    bundles = [twice_bundle(tmp_path, name=name, building={**building, "for": name}) for name in ("one", "other")]
    with Daemon(tmp_path / "root", bundles, "", interpreter) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: runs(status, BEST, "one") and runs(status, BEST, "other"))
        daemon.stop()
        daemon.told.clear()
        assert len(cached(daemon.root)) == 2
        daemon.start()
        assert runs(daemon.status(), BEST, "one")
        assert runs(daemon.status(), BEST, "other")
