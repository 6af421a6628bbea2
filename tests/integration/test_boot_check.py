"""`edgectl boot` against a real edged, as greenboot runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import DIGITS, Daemon

from edged.system import deployment
from edged.system.deployment import Served


def edgectl(root: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "edged.ctl.main", "--root", str(root), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "r", [DIGITS]) as daemon:
        (daemon.root / "proc").mkdir(parents=True)
        boot(daemon.root, "one")
        yield daemon.start()


def boot(root: Path, name: str) -> None:
    (root / "proc/cmdline").write_text(f"rw ostree={name}\n")


def test_a_first_boot_is_good_when_edged_answers_and_is_recorded(running: Daemon) -> None:
    assert edgectl(running.root, "boot", "check")[0] == 0
    assert edgectl(running.root, "boot", "record")[0] == 0
    assert deployment.recall(running.root) == Served("one", ("digits",))


def test_a_new_deployment_that_serves_the_same_is_good(running: Daemon) -> None:
    deployment.record(running.root, Served("zero", ("digits",)))
    assert edgectl(running.root, "boot", "check", "--wait", "60")[0] == 0


def test_a_new_deployment_without_what_served_is_not(running: Daemon) -> None:
    deployment.record(running.root, Served("zero", ("defects",)))
    status, _, told = edgectl(running.root, "boot", "check")
    assert status == 1
    assert "none of the models that served is known any more: defects" in told


def test_a_deployment_that_was_good_stays_so_even_when_edged_is_gone(running: Daemon) -> None:
    deployment.record(running.root, Served("one", ("defects",)))
    running.stop()
    assert edgectl(running.root, "boot", "check")[0] == 0


def test_a_new_deployment_whose_edged_does_not_answer_is_not_good_and_leaves_evidence(running: Daemon) -> None:
    deployment.record(running.root, Served("zero", ("digits",)))
    running.stop()
    status, told, _ = edgectl(running.root, "--json", "boot", "check", "--wait", "0.5")
    assert status == 1
    assert "edged is not running" in json.loads(told)["wrong"][0]
    assert edgectl(running.root, "boot", "evidence")[0] == 0
    (left,) = json.loads(edgectl(running.root, "--json", "boot", "evidence", "--show")[1])["red_boots"]
    assert left["deployment"] == "one"
    assert "edged is not running" in left["wrong"][0]
    assert "deployment one" in edgectl(running.root, "boot", "evidence", "--show")[1]
