"""A real daemon on a small disk: near the reserve it makes room, at the reserve only the journal writes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.calls import refusal
from support.daemon import Daemon
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.polling import until
from support.updating import MODEL, Updating, scale, scale_bundle

from edged._pb.edged.v1 import update_pb2 as up

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")

MIB = 2**20
SETTINGS = "[pressure]\ndwell_s = 1\nstorage_reserve_mib = 2\ntrace_mib = 1\n[telemetry]\nwindow_s = 1\n"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder of 16 MiB, of which 2 are the reserve."""
    folder = tmp_path / "root/var/lib/edged"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "edged-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def device(folder: Path, bundles: list[Path], settings: str) -> Daemon:
    return Daemon(folder / "root", bundles, settings, hostile_interpreter(folder / "python", "watchful_site"))


def leave(state: Path, free_bytes: int) -> None:
    """Fills the disk with ballast, or takes some away."""
    ballast = state / "ballast"
    disk = os.statvfs(state)
    size = ballast.stat().st_size if ballast.exists() else 0
    size += disk.f_bavail * disk.f_frsize - free_bytes
    with ballast.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size) if size > file.tell() else file.truncate(size)


def level(daemon: Daemon) -> str:
    changes = [event for event in daemon.events("pressure_level") if event.subject == "storage"]
    return changes[-1].details["level"] if changes else "nominal"


def until_level(daemon: Daemon, wanted: str) -> None:
    what = f"storage is found {wanted}"
    until(lambda: level(daemon), what, holds=lambda found: found == wanted, log=daemon.log)


def written(state: Path) -> dict[str, tuple[int, int]]:
    """What lies there but for the journal and its markers, and when it was written."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in state.rglob("*")
        if path.is_file() and not path.name.startswith("journal") and "markers" not in path.parts
    }


def test_near_the_reserve_it_makes_room_and_at_the_reserve_only_the_journal_writes(tmp_path: Path, state: Path):
    rubbish = state / "store/staging/gone/7/blobs/half.part"
    rubbish.parent.mkdir(parents=True)
    rubbish.write_bytes(bytes(MIB))
    leave(state, 3 * MIB)
    bundles = [scale_bundle(tmp_path, 1), scale_bundle(tmp_path, 2)]
    with device(tmp_path, bundles, SETTINGS).start() as daemon:
        until(lambda: daemon.events("store_collected"), "rubbish is collected", log=daemon.log)
        assert not rubbish.exists()
        assert daemon.events("store_collected")[0].details["blobs"] == "0"
        daemon.infer(scale(1.0, 2.0))

        leave(state, MIB)
        until_level(daemon, "critical")
        updating = Updating(daemon)
        with pytest.raises(grpc.RpcError) as refused:
            updating.look(from_dir=str(tmp_path))
        assert refusal(refused.value).code == "storage_full"
        assert "is kept for the journal" in refusal(refused.value).message

        before = written(state)
        windows_due = time.monotonic() + 3  # of a second each
        while time.monotonic() < windows_due:
            daemon.infer(scale(1.0, 2.0))
        updating.call("Pin", up.PinRequest(model=MODEL, revision=1), up.PinResponse)
        assert written(state) == before

        leave(state, 12 * MIB)
        until_level(daemon, "nominal")
        until(lambda: written(state) != before, "what waited in memory is kept", log=daemon.log)


def test_near_the_reserve_what_soaks_is_judged_and_nothing_is_fetched(tmp_path: Path, state: Path):
    fleet = Fleet(tmp_path / "fleet")
    soaks = "[acceptance]\nshadow = { samples = 0 }\nsoak = { min_requests = 20, max_s = 3600 }\n"
    settings = fleet.trusted_by(tmp_path / "root") + SETTINGS
    with device(tmp_path, [scale_bundle(tmp_path / "factory", 1)], settings).start() as daemon:
        updating = Updating(daemon)
        fleet.publish(scale_bundle(tmp_path / "bundles", 2, extra=soaks))
        fleet.plan(MODEL, 2)
        updating.look()
        updating.wait(lambda model: model.phase == "soaking")
        leave(state, 3 * MIB)
        until_level(daemon, "elevated")

        def asked() -> str:
            assert not updating.model().deferred
            daemon.infer(scale(1.0, 2.0))
            return updating.model().phase

        until(asked, "the soak is over", holds=lambda phase: phase != "soaking", log=daemon.log, again_s=0)
        updating.wait_idle_at(2)

        fleet.publish(scale_bundle(tmp_path / "bundles", 3))
        fleet.plan(MODEL, 3)
        updating.look()
        assert "nearly full" in updating.wait(lambda model: bool(model.deferred)).deferred
        leave(state, 12 * MIB)
        updating.wait_idle_at(3)
