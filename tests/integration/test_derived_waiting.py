"""Builds in the background give way: to a device under pressure, and to whoever waits for another build."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim import sysfs
from support.daemon import Daemon
from support.deriving import BEST, NAME, PORTABLE, answer, cached, runs, twice_bundle
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.polling import until
from support.updating import Updating

HOT_C, COOL_C = 85.5, 51.0
SETTINGS = "[pressure]\ndwell_s = 1\n"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_interpreter(tmp_path_factory.mktemp("python"))


def gate(root: Path) -> Path:
    """The file for which the build of `slow_bundle` waits: in its bundle, which its worker may read."""
    return root / "usr/share/edged/models" / NAME / "1/go"


def slow_bundle(folder: Path, root: Path) -> Path:
    return twice_bundle(folder, building={"building": "wait", "for": str(gate(root))})


def unfinished(root: Path) -> list[Path]:
    """What is being built."""
    return [path for path in cached(root) if path.name.startswith(".")]


def test_pressure_ends_a_build_which_is_begun_again_when_it_is_over(tmp_path: Path, interpreter: Path) -> None:
    device = sysfs.raspberry_pi(tmp_path / "root")
    with Daemon(device.root, [slow_bundle(tmp_path, device.root)], SETTINGS, interpreter) as daemon:
        daemon.start()
        until(lambda: unfinished(daemon.root), "it is being built")
        device.set_temperature(0, HOT_C)
        until(lambda: not unfinished(daemon.root), "it is no longer being built")
        gate(daemon.root).touch()
        daemon.wait_for(lambda status: runs(status, PORTABLE))
        assert answer(daemon) == [2.0, 4.0]
        assert not daemon.events("variant_built", "build_failed")
        device.set_temperature(0, COOL_C)
        daemon.wait_for(lambda status: runs(status, BEST))
        assert len(daemon.events("variant_built")) == 1


def test_who_waits_for_a_build_does_not_wait_for_one_in_the_background(tmp_path: Path, interpreter: Path) -> None:
    fleet, root = Fleet(tmp_path / "fleet"), tmp_path / "root"
    bundles = [
        slow_bundle(tmp_path, root),
        twice_bundle(tmp_path / "factory", name="other", building={}, portable=False),
    ]
    with Daemon(root, bundles, fleet.trusted_by(root), interpreter) as daemon:
        updating = Updating(daemon.start())
        until(lambda: unfinished(root), "it is being built")
        fleet.publish(twice_bundle(tmp_path / "next", 2, name="other", building={}, portable=False))
        fleet.plan("other", 2)
        updating.look()
        updating.wait(lambda model: model.phase == "idle" and model.serving == 2, "other")
        assert runs(daemon.status(), PORTABLE)
        until(lambda: unfinished(root), "it is being built again")
        gate(root).touch()
        daemon.wait_for(lambda status: runs(status, BEST))
        built = [(event.subject, event.details["revision"]) for event in daemon.events("variant_built")]
        assert built == [("other", "1"), ("other", "2"), (NAME, "1")]


def test_a_daemon_that_ends_while_it_builds_leaves_nobody_behind(tmp_path: Path, interpreter: Path) -> None:
    root = tmp_path / "root"
    with Daemon(root, [slow_bundle(tmp_path, root)], "", interpreter) as daemon:
        daemon.start()
        until(lambda: unfinished(root), "it is being built")
        assert daemon.stop() == 0
        assert not unfinished(root)
        daemon.told.clear()
        gate(root).touch()
        daemon.start()
        daemon.wait_for(lambda status: runs(status, BEST))
