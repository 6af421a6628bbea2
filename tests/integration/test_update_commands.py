"""edgectl about updates, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.fleet import Fleet
from support.updating import Updating, scale_bundle


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A fleet with a good revision and a bad one, and a device that follows it."""
    folder = tmp_path_factory.mktemp("commands")
    fleet = Fleet(folder / "fleet")
    fleet.publish(scale_bundle(folder / "bundles", 2, factor=3.0))
    fleet.publish(scale_bundle(folder / "bundles", 3, factor=3.0, golden_factor=9.0))
    return folder, fleet


@pytest.fixture
def device(setting, tmp_path):
    _, fleet = setting
    factory = scale_bundle(tmp_path / "factory", 1)
    with Daemon(tmp_path / "root", [factory], fleet.trusted_by(tmp_path / "root")) as daemon:
        yield daemon.start()


def edgectl(device: Daemon, *words: str) -> tuple[int, str]:
    """Runs it; its exit status and all that it said."""
    command = [sys.executable, "-m", "edged.ctl.main", "--root", str(device.root), *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_an_update_from_the_plan_to_its_history(setting, device):
    _, fleet = setting
    edgectl(device, "update", "--check")  # the look at the start is over
    fleet.plan("scale", 2)
    status, said = edgectl(device, "update", "--check")
    assert (status, "wants revision 2" in said) == (0, True), said
    assert Updating(device).model().phase == "idle"
    status, said = edgectl(device, "update", "--watch")
    assert (status, "scale revision 2 serves" in said) == (0, True), said
    status, said = edgectl(device, "history", "scale", "--evidence")
    assert status == 0
    for step in ("idle → fetching", "trial → shadow", "soaking → committed", "goldens"):
        assert step in said
    _, said = edgectl(device, "explain", "scale")
    assert "revision 2 serves" in said
    status, said = edgectl(device, "store", "verify")
    assert (status, "every byte is as it was signed" in said) == (0, True), said
    status, said = edgectl(device, "rollback", "scale")
    assert (status, "goes back to revision 1" in said) == (0, True), said
    Updating(device).wait_idle_at(1)
    assert edgectl(device, "rollback", "scale") == (0, "scale serves revision 1 already\n")
    assert "pinned to revision 1" in edgectl(device, "update", "--check")[1]
    assert edgectl(device, "unpin", "scale")[0] == 0
    Updating(device).wait_idle_at(2)
    assert "stays at revision 2" in edgectl(device, "pin", "scale")[1]
    said = "scale is to be at revision 1; revision 2 serves until it has passed\n"
    assert edgectl(device, "pin", "scale", "1") == (0, said)


def test_a_bad_revision_is_told_and_its_quarantine_released(setting, device):
    _, fleet = setting
    fleet.plan("scale", 3)
    status, said = edgectl(device, "update", "--watch")
    assert (status, "golden_mismatch" in said) == (1, True), said
    _, said = edgectl(device, "quarantine", "list", "--json")
    (found,) = json.loads(said)["quarantined"]
    assert (found["model"], found["reason"]) == ("scale", "golden_mismatch")
    status, said = edgectl(device, "quarantine", "release", found["name"][:8])
    assert (status, "may be tried again" in said) == (0, True), said
    assert edgectl(device, "quarantine", "release", "nothing")[0] == 1


def test_what_is_quarantined_already_came_to_nothing(setting, device):
    _, fleet = setting
    fleet.plan("scale", 3)
    assert edgectl(device, "update", "--watch")[0] == 1
    status, said = edgectl(device, "update", "--watch")
    assert (status, "scale revision 1 serves; revision 3 is quarantined: golden_mismatch" in said) == (1, True), said


def test_without_a_repository_what_is_not_here_is_refused(tmp_path):
    with Daemon(tmp_path / "root", [scale_bundle(tmp_path / "factory", 1)]) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        for words in (("pin", "scale", "9"), ("rollback", "scale", "--to", "9")):
            status, said = edgectl(daemon, *words)
            why = "revision 9 of model scale is not on this device, and there is no repository to look at; set update"
            assert (status, why in said) == (1, True), said
        assert edgectl(daemon, "history", "scale") == (0, "nothing has happened\n")
        status, said = edgectl(daemon, "history", "nosuch")
        assert (status, "there is no model 'nosuch'; models here: scale (model_not_found)" in said) == (1, True), said
        assert edgectl(daemon, "pin", "scale", "1")[0] == 0
        status, said = edgectl(daemon, "unpin", "nosuch")
        assert (status, "`edgectl explain MODEL` tells pins" in said) == (1, True), said
        assert edgectl(daemon, "unload", "scale")[0] == 0
        assert "`edgectl load scale` has it serve again" in edgectl(daemon, "explain", "scale")[1]


def test_a_flipped_bit_in_the_store_is_found(setting, device):
    _, fleet = setting
    fleet.plan("scale", 2)
    edgectl(device, "update", "--watch")
    blob = next(Path(device.root / "var/lib/edged/store/blobs").rglob("*/*"))
    content = bytearray(blob.read_bytes())
    content[0] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(content)
    status, said = edgectl(device, "store", "verify")
    assert (status, "damaged" in said) == (1, True), said
    status, said = edgectl(device, "store", "verify", "--repair")
    assert (status, "fetched again" in said) == (0, True), said
    status, said = edgectl(device, "store", "verify")
    assert (status, "every byte is as it was signed" in said) == (0, True), said
