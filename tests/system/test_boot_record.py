"""greenboot's scripts and the record of what serves, in a real systemd."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support import container, ostree
from support.container import Container, run
from support.daemon import REPO

pytestmark = pytest.mark.skipif(bool(container.missing()), reason=container.missing() or "there is one")

RECORD = "/var/lib/edged-boot/served.json"


@pytest.fixture
def checked(system: Container) -> Iterator[Container]:
    """A system with edged's scripts for greenboot, and the stand-in for its runner."""
    run("sh", REPO / "bootc/install.sh", system.files)
    ostree.add_greenboot(system.files)
    system.run("systemctl daemon-reload")
    yield system
    system.run(
        f"systemctl stop edged-boot {ostree.HEALTH_CHECK}; cd /usr/lib/systemd/system && rm -rf /usr/lib/greenboot* "
        f"multi-user.target.wants/{ostree.HEALTH_CHECK} greenboot-healthcheck.* /var/lib/edged-boot; "
        "systemctl daemon-reload"
    )


def models(system: Container) -> object:
    return json.loads(system.run(f"cat {RECORD}"))["models"]


def test_a_green_boot_is_recorded_and_again_as_it_is_left(checked: Container) -> None:
    checked.run(f"systemctl start {ostree.HEALTH_CHECK}")
    checked.wait_logged("this boot is green", ostree.HEALTH_CHECK)
    said = checked.run(f"journalctl --unit={ostree.HEALTH_CHECK} --no-pager --output=cat")
    assert "failed" not in said.replace("wanted.d/50-edged.sh: failed, which is only told", "")
    assert models(checked) == ["digits"]
    checked.run(f"rm {RECORD} && systemctl stop edged-boot")
    assert models(checked) == ["digits"]
    assert checked.run("systemctl show edged-boot --property=Result --value") == "success"
    after = {
        unit: checked.run(f"systemctl show {unit} --property=After --value").split()
        for unit in ("edged-boot", ostree.HEALTH_CHECK)
    }
    assert all("edged.service" in each for each in after.values())  # so that it is stopped before edged is


def test_a_boot_that_was_not_found_good_leaves_no_record_but_evidence(checked: Container) -> None:
    checked.run("systemctl start edged-boot && /usr/lib/greenboot/red.d/50-edged.sh && systemctl stop edged-boot")
    assert checked.shell(f"test -e {RECORD}").returncode == 1
    (red,) = json.loads(checked.run("edgectl --json boot evidence --show"))["red_boots"]
    assert red["status"]["version"]
    assert red["log"]
