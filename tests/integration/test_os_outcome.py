"""What became of a boot of the operating system reaches the fleet: the real daemon and a real mosquitto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from support.broker import Mosquitto, Operator, Pki
from support.reporting import daemon_for

from edged.system import deployment
from edged.system.deployment import Boot
from edged.system.os_requests import STATUS, OsImage, OsStatus

ONE, TWO = "/ostree/boot.1/default/aaaa/0", "/ostree/boot.0/default/bbbb/0"
WHY = "model 'digits' served under the last deployment and does not under this one"
COURSE = (
    # the kernel's name for the boot, what it booted, greenboot's verdict, what is told
    (Boot("b1", ONE, good=True), "42.1", ""),
    (Boot("b2", TWO, good=False, wrong=(WHY,)), "42.2", "os_boot_red"),
    (Boot("b3", ONE, good=True), "42.1", "os_rolled_back"),
)


def boot(root: Path, found: Boot, version: str) -> None:
    """As the kernel, greenboot's check and the helper leave it."""
    folder = root / "proc/sys/kernel/random"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "boot_id").write_text(f"{found.boot}\n")
    (root / "proc/cmdline").write_text(f"ostree={found.deployment} rw\n")
    deployment.note(root, found)
    status = root / "var/lib/edged" / STATUS
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_bytes(msgspec.json.encode(OsStatus(boot=found.boot, booted=OsImage("edge-os", version))))


def told(seen: Operator, code: str) -> list[dict[str, Any]]:
    return [each["event"] for each in seen.all("event") if each["event"]["code"] == code]


def test_a_red_boot_and_the_way_back_from_it_reach_the_operator_with_the_reason(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "broker", Pki(tmp_path / "pki")) as broker,
        Operator(broker, tmp_path / "operator") as operator,
        daemon_for(tmp_path, broker) as daemon,
    ):
        for found, version, code in COURSE:
            boot(daemon.root, found, version)
            daemon.start()
            if code:
                (event, *_) = operator.wait(lambda seen, code=code: told(seen, code))
                assert version in event["message"]
                assert WHY in event["message"]
            else:
                daemon.wait_for(lambda status: status.ready)
            assert daemon.stop() == 0
