"""`edgectl boot` against a real edged, as greenboot runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import DIGITS, PATIENCE_S, Daemon
from support.polling import until
from support.updating import scale_bundle

from edged import clock
from edged.system import deployment
from edged.system.deployment import Boot, Served


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


def boot(root: Path, name: str, keeper: str = "ostree") -> None:
    (root / "proc/cmdline").write_text(f"rw {keeper}={name}\n")


def test_a_first_boot_is_good_when_edged_answers_and_is_recorded(running: Daemon) -> None:
    assert edgectl(running.root, "boot", "check")[0] == 0
    assert edgectl(running.root, "boot", "record")[0] == 0
    assert deployment.recall(running.root) == Served("one", ("digits",), ("digits",))


def test_a_new_deployment_that_serves_the_same_is_good(running: Daemon) -> None:
    deployment.record(running.root, Served("zero", ("digits",)))
    assert edgectl(running.root, "boot", "check", "--wait", "60")[0] == 0


def test_a_new_deployment_without_what_served_is_not(running: Daemon) -> None:
    deployment.record(running.root, Served("zero", ("defects",)))
    status, _, told = edgectl(running.root, "boot", "check")
    assert status == 1
    assert "none of the models that served is known any more: defects" in told


def test_a_deployment_that_bootc_keeps_without_ostree_is_held_against_the_last_one(running: Daemon) -> None:
    boot(running.root, "?aaaa", "composefs")
    assert edgectl(running.root, "boot", "record")[0] == 0
    assert deployment.recall(running.root) == Served("aaaa", ("digits",), ("digits",))
    running.stop()
    assert edgectl(running.root, "boot", "check")[0] == 0, "it was good before"
    boot(running.root, "bbbb", "composefs")
    assert edgectl(running.root, "boot", "check")[0] == 1


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
    since_s = clock.monotonic()
    assert edgectl(running.root, "boot", "evidence")[0] == 0
    red = deployment.red(running.root)
    assert red is not None
    assert since_s <= red.at_s <= clock.monotonic()
    assert "edged is not running" in red.why
    (left,) = json.loads(edgectl(running.root, "--json", "boot", "evidence", "--show")[1])["red_boots"]
    assert left["deployment"] == "one"
    assert "edged is not running" in left["wrong"][0]
    assert "deployment one" in edgectl(running.root, "boot", "evidence", "--show")[1]


def verdicts(root: Path) -> list[tuple[str, bool]]:
    return [(each.deployment, each.good) for each in deployment.boots(root)]


def test_a_boot_is_noted_as_good_before_edged_is_up_and_what_served_stays_remembered(running: Daemon) -> None:
    deployment.record(running.root, Served("zero", ("digits",)))
    running.stop()
    assert edgectl(running.root, "boot", "record")[0] == 3
    assert verdicts(running.root) == [("one", True)]
    assert deployment.recall(running.root) == Served("one", ("digits",))


def test_a_model_that_takes_its_time_is_waited_for(tmp_path: Path) -> None:
    with Daemon(tmp_path / "r", [DIGITS]) as daemon:
        (daemon.root / "proc").mkdir(parents=True)
        boot(daemon.root, "one")
        deployment.record(daemon.root, Served("one", ("digits",)))
        with subprocess.Popen(
            [sys.executable, "-m", "edged.ctl.main", "--root", daemon.root, "boot", "record", "--wait", "60"]
        ) as recording:
            until(lambda: verdicts(daemon.root), "the verdict is noted")
            daemon.start(wait=False)
            assert recording.wait(PATIENCE_S) == 0
        assert deployment.recall(daemon.root) == Served("one", ("digits",), ("digits",))


def test_for_administrators_only_edged_takes_nothing_off_the_record(tmp_path: Path) -> None:
    with Daemon(tmp_path / "r", [DIGITS], settings="nonsense") as daemon:
        (daemon.root / "proc").mkdir(parents=True)
        boot(daemon.root, "one")
        deployment.record(daemon.root, Served("one", ("digits",)))
        daemon.start(environment={"INVOCATION_ID": "x"})
        assert not daemon.status().models
        assert edgectl(daemon.root, "boot", "record")[0] == 0
        assert deployment.recall(daemon.root) == Served("one", ("digits",))


def test_as_a_good_boot_is_left_what_changed_since_is_recorded(running: Daemon) -> None:
    deployment.note(running.root, Boot(deployment.boot_id(running.root), "one", good=True))
    deployment.record(running.root, Served("one", ("defects",)))  # which does not serve by now
    assert edgectl(running.root, "boot", "record", "--again")[0] == 0
    assert deployment.recall(running.root) == Served("one", ("digits",), ("digits",))


def kill_worker(daemon: Daemon) -> None:
    pid = daemon.wait_for(lambda status: status.models[0].ready).workers[0].pid
    os.kill(pid, signal.SIGKILL)
    daemon.wait_for(lambda status: all(each.pid != pid for each in status.workers))


def test_a_model_that_crashes_again_and_again_is_not_held_against_the_next_deployment(tmp_path: Path) -> None:
    settings = "[workers]\nrestart_min_s = 3600\nrestart_max_s = 3600\n"
    with Daemon(tmp_path / "r", [DIGITS], settings) as daemon:
        (daemon.root / "proc").mkdir(parents=True)
        boot(daemon.root, "one")
        deployment.record(daemon.root, Served("one", ("digits",)))
        daemon.start()
        kill_worker(daemon)
        kill_worker(daemon)
        daemon.wait_for(lambda status: "3600 s" in status.models[0].reason)
        assert edgectl(daemon.root, "boot", "record", "--wait", "60")[0] == 0
        assert deployment.recall(daemon.root) == Served("one", ())


@pytest.mark.parametrize("noted", [[], [Boot("", "one", good=False)], [Boot("an earlier one", "one", good=True)]])
def test_as_a_boot_that_was_not_found_good_is_left_nothing_is_recorded(running: Daemon, noted: list[Boot]) -> None:
    for each in noted:
        deployment.note(running.root, each)
    deployment.record(running.root, Served("zero", ("defects",)))
    assert edgectl(running.root, "boot", "record", "--again")[0] == 0
    assert deployment.recall(running.root) == Served("zero", ("defects",))


def test_of_several_revisions_the_one_that_serves_counts(tmp_path: Path) -> None:
    with Daemon(tmp_path / "r", [scale_bundle(tmp_path / "bundles", revision) for revision in (1, 2)]) as daemon:
        (daemon.root / "proc").mkdir(parents=True)
        boot(daemon.root, "one")
        daemon.start()
        assert edgectl(daemon.root, "load", "scale", "--revision", "1")[0] == 0
        daemon.wait_for(lambda status: [each.ready for each in status.models] == [True, False])
        deployment.record(daemon.root, Served("zero", ("scale",)))
        assert edgectl(daemon.root, "boot", "check")[0] == 0
        assert edgectl(daemon.root, "boot", "record")[0] == 0
        assert deployment.recall(daemon.root) == Served("one", ("scale",), ("scale",))
