"""What stands beside the service in a real systemd: the operating system's helper, verification, update sticks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support import container
from support.bootc import Bootc, digest
from support.container import Container
from support.daemon import REPO
from support.fleets import Fleet, make_fleet

from edged.fleet import command as commands
from edged.fleet import operators

pytestmark = pytest.mark.skipif(bool(container.missing()), reason=container.missing() or "there is one")

ALICE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MALLORY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))

UNITS = sorted(path.name for path in (REPO / "systemd").glob("*.*") if path.suffix in (".path", ".service", ".timer"))
# Those on no device: of a developer, and of the machine with a fleet's keys.
ELSEWHERE = {
    "edged-user.service": "--user",
    "edged-fleet-renew.service": "--system",
    "edged-fleet-renew.timer": "--system",
}
OWN = [name for name in UNITS if name not in ELSEWHERE]
CLASSES = sorted(path.stem for path in (REPO / "systemd/classes").glob("*.conf"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet whose operator alice may have the operating system updated."""
    made = make_fleet(tmp_path_factory.mktemp("fleet") / "shops")
    key = ALICE.public_key().public_bytes_raw().hex()
    operators.add(made.signing(), "alice", key, ("os_upgrade",), ())
    made.run_revision(2)
    return made


@pytest.fixture
def device(system: Container, fleet: Fleet) -> Iterator[Container]:
    """A device of that fleet, whose repository is a folder of its own."""
    trust = system.files / "usr/share/edged/trust"
    trust.mkdir(exist_ok=True)
    shutil.copy(fleet.root, trust / "root.json")
    shutil.copytree(fleet.home.repository, system.files / "srv/repository")
    (system.files / "etc/edged").mkdir()
    (system.files / "etc/edged/edged.toml").write_text('[device]\nname = "till-7"\nfleet = "shops"\n')
    # Updates wait while the machine is busy, and that which tests run on often is.
    system.run(
        "mkdir -p /etc/systemd/system/edged.service.d && printf '[Service]\\nInaccessiblePaths=/proc/pressure\\n' "
        "> /etc/systemd/system/edged.service.d/test.conf && systemctl daemon-reload"
    )
    system.run("rm -rf /run/edged-os; chmod -R a+rX /srv /usr/share/edged/trust /etc/edged; systemctl restart edged")
    yield system
    system.run(
        "systemctl stop edged; rm -rf /srv/repository /srv/os /usr/bin/bootc /usr/share/edged/trust "
        "/var/lib/edged/* /var/lib/edged-os /run/edged-os"
    )


@pytest.mark.parametrize("name", [*OWN, "run-edgedstick.mount"])
def test_every_unit_is_without_fault(system: Container, name: str) -> None:
    assert system.run(f"systemd-analyze verify {name} 2>&1") == ""


@pytest.mark.parametrize("name", ELSEWHERE)
def test_every_unit_that_no_device_has_is_without_fault(system: Container, name: str) -> None:
    """For a user, what the unit starts lies below the home folder; a fleet's machine has edgectl on its path."""
    for unit in ELSEWHERE:
        shutil.copy(REPO / "systemd" / unit, system.files / "srv")
    system.run("mkdir -p /root/.local/bin && ln -sf /usr/bin/edged /root/.local/bin/edged")
    command = f"XDG_RUNTIME_DIR=/run systemd-analyze verify {ELSEWHERE[name]} /srv/{name} 2>&1"
    assert system.run(command) == ""


@pytest.mark.parametrize("name", CLASSES)
def test_the_service_with_the_devices_of_a_class_is_without_fault_and_as_tight(system: Container, name: str) -> None:
    folder = system.files / "etc/systemd/system/edged.service.d"
    folder.mkdir()
    shutil.copy(REPO / f"systemd/classes/{name}.conf", folder)
    system.run("systemctl daemon-reload")
    assert system.run("systemd-analyze verify edged.service 2>&1") == ""
    system.run("systemd-analyze security --threshold=18 edged.service --no-pager")


def test_the_rule_for_sticks_is_without_fault(system: Container) -> None:
    assert "Success: 1" in system.run("udevadm verify /usr/lib/udev/rules.d/90-edged-stick.rules 2>&1")


def test_what_is_mounted_is_what_the_rule_looked_at(system: Container) -> None:
    rule = system.run("cat /usr/lib/udev/rules.d/90-edged-stick.rules")
    what = system.run("systemctl show run-edgedstick.mount -p What --value")
    assert f'SYMLINK+="{what.removeprefix("/dev/")}"' in rule


def test_what_the_preset_names_starts_at_boot_and_the_rest_does_not(system: Container) -> None:
    enabled = {name for name in OWN if system.shell(f"systemctl is-enabled {name}").stdout == "enabled\n"}
    assert enabled == {"edged.service", "edged-os.path", "edged-os.timer", "edged-verify.timer"}


def test_the_helper_holds_no_boot_up_and_comes_after_its_check(system: Container) -> None:
    assert system.run("systemctl show edged-os.service -p WantedBy -p RequiredBy --value") == ""
    assert "greenboot-healthcheck.service" in system.run("systemctl show edged-os.service -p After --value").split()
    assert "OnBootUSec" in system.run("systemctl show edged-os.timer -p TimersMonotonic --value")


@pytest.mark.parametrize(("name", "most"), [("edged-verify.service", 18), ("edged-stick.service", 18)])
def test_those_that_only_ask_the_daemon_are_as_tight_as_it_is(system: Container, name: str, most: int) -> None:
    system.run(f"systemd-analyze security --threshold={most} {name} --no-pager")


def test_the_store_is_verified(system: Container) -> None:
    system.run("systemctl start edged-verify.service")
    assert system.run("systemctl show edged-verify.service -p Result --value") == "success"


def test_a_store_that_is_damaged_is_mended(device: Container) -> None:
    with (device.files / "etc/edged/edged.toml").open("a") as settings:
        settings.write('[update]\nrepository = "file:///srv/repository"\nshadow_max_s = 0.5\n')
    device.run("systemctl restart edged && edgectl update")
    device.wait("edgectl history digits | grep -q soaking")
    device.run(
        "f=$(find /var/lib/edged/store/blobs -type f -size +4k | head -n 1) && printf damage | dd of=$f conv=notrunc"
    )
    assert device.shell("edgectl store verify").returncode == 1
    device.run("systemctl start edged-verify.service")
    device.wait_logged("it was taken out", "edged-verify")
    device.wait("edgectl store verify")


def test_a_stick_is_mounted_harmlessly_and_taken_from(device: Container) -> None:
    """There is no block device here: a folder stands for the stick, with the unit's own options."""
    device.run(
        "mkdir -p /etc/systemd/system/run-edgedstick.mount.d && printf "
        "'[Mount]\\nWhat=/srv/repository\\nOptions=\\nOptions=bind,ro,nosuid,nodev,noexec\\n' "
        "> /etc/systemd/system/run-edgedstick.mount.d/test.conf && systemctl daemon-reload"
    )
    device.run("systemctl start run-edgedstick.mount")
    options = device.run("findmnt --noheadings --output=VFS-OPTIONS /run/edgedstick").split(",")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options)
    device.run("systemctl start edged-stick.service", timeout_s=120)
    device.wait("edgectl history digits | grep -q staged")
    device.run("systemctl stop run-edgedstick.mount")
    assert device.shell("findmnt /run/edgedstick").returncode == 1
    device.run("rm -r /etc/systemd/system/run-edgedstick.mount.d; systemctl daemon-reload")


def hand_over(device: Container, key: Ed25519PrivateKey) -> str:
    """As the daemon does it, what an operator signed."""
    command = commands.make(
        "os_upgrade",
        {},
        fleet="shops",
        device="till-7",
        hardware_class="",
        now=datetime.now(UTC) + timedelta(seconds=1),
        valid=timedelta(hours=1),
    )
    (device.files / "srv/os/request").write_bytes(commands.seal(command, key))
    folder = "/var/lib/edged/os/requests"
    device.run(
        f"install -d -o edged -g edged -m 700 /var/lib/edged/os {folder} && "
        f"install -o edged -g edged -m 600 /srv/os/request {folder}/.{command.nonce} && "
        f"mv {folder}/.{command.nonce} {folder}/{command.nonce}.json"
    )
    return command.nonce


def result(device: Container, nonce: str) -> dict[str, str]:
    path = f"/var/lib/edged/os/results/{nonce}.json"
    device.wait(f"grep -qE 'done|refused' {path}")
    assert device.run(f"stat -c %U {path}") == "edged"
    found: dict[str, str] = json.loads(device.run(f"cat {path}"))
    return found


def test_a_first_run_that_fails_is_not_the_last_of_its_boot(device: Container) -> None:
    bootc = Bootc(device.files / "srv/os")
    device.run("ln -s /srv/os/bin/bootc /usr/bin/bootc")
    bootc.fails("status", "error: sysroot is locked")
    assert device.shell("systemctl start edged-os.service").returncode != 0
    bootc.fails("status", "")
    device.run("systemctl start edged-os.service")
    assert json.loads(device.run("cat /var/lib/edged/os/status.json"))["booted"]["digest"] == digest(1)
    asked = len(bootc.asked)
    device.run("systemctl start edged-os.service")
    assert len(bootc.asked) == asked, "once in a boot, where nothing waits"


def test_with_broken_settings_whoever_commands_is_told_so(device: Container) -> None:
    (device.files / "srv/os").mkdir()
    path = device.files / "etc/edged/edged.toml"
    path.write_text(path.read_text() + "[update]\nwindow = 3\n")
    for _ in range(6):  # more than systemd lets a service fail by itself
        found = result(device, hand_over(device, ALICE))
        assert (found["status"], found["code"]) == ("refused", "failed")
        assert "update.window" in found["text"]
    assert device.run("systemctl is-active edged-os.path") == "active"


def test_a_path_unit_that_gave_up_looks_again_after_the_next_run(device: Container) -> None:
    """A folder with something in it is none that the helper removes; it is looked at less often than it may be."""
    device.run(
        "mkdir /etc/systemd/system/edged-os.path.d && printf '[Path]\\nTriggerLimitBurst=3\\n' "
        "> /etc/systemd/system/edged-os.path.d/test.conf && systemctl daemon-reload && systemctl restart edged-os.path"
    )
    folder = "/var/lib/edged/os/requests"
    owned = "install -d -o edged -g edged -m 700"
    device.run(f"{owned} /var/lib/edged/os {folder} {folder}/odd {folder}/odd/odd")
    device.wait("systemctl is-failed edged-os.path")
    assert device.run("systemctl show edged-os.path -p Result --value") == "trigger-limit-hit"
    device.run(f"rm -r {folder}/odd")
    device.run("systemctl start edged-os.service")
    assert device.run("systemctl is-active edged-os.path") == "active"
    device.run("rm -r /etc/systemd/system/edged-os.path.d; systemctl daemon-reload; systemctl restart edged-os.path")


def test_what_is_handed_over_starts_the_helper_which_obeys_operators_alone(device: Container) -> None:
    bootc = Bootc(device.files / "srv/os")
    device.run("ln -s /srv/os/bin/bootc /usr/bin/bootc && edgectl update --from /srv/repository")
    device.run("systemctl start edged-os.service")  # from now on it remembers
    assert json.loads(device.run("cat /var/lib/edged/os/status.json"))["booted"]["digest"] == digest(1)
    # What a daemon was writing when it was killed starts nobody, and so not for ever.
    device.run("install -d -o edged -g edged -m 700 /var/lib/edged/os /var/lib/edged/os/requests")
    device.run("install -o edged -g edged -m 600 /dev/null /var/lib/edged/os/requests/.left")
    nonce = hand_over(device, ALICE)
    found = result(device, nonce)
    assert (found["status"], bootc.changes) == ("done", ["bootc upgrade --quiet"]), found
    nonce = hand_over(device, MALLORY)
    assert result(device, nonce)["code"] == "signature_invalid"
    assert bootc.changes == ["bootc upgrade --quiet"]
    assert device.run("stat -c '%a %U' /var/lib/edged-os") == "700 root"
    assert device.run("ls /var/lib/edged/os/requests") == ""
    assert device.run("systemctl is-active edged-os.path") == "active"
    assert "start-limit" not in device.run("journalctl --no-pager --unit=edged-os.path --unit=edged-os.service")


def test_the_helper_has_no_more_capabilities_than_bootc_needs(system: Container) -> None:
    bounding = system.run("systemctl show edged-os.service -p CapabilityBoundingSet --value").split()
    assert "cap_sys_ptrace" in bounding, "or bootc reads of no other process which mounts it has"
    assert not {"cap_sys_module", "cap_sys_rawio", "cap_net_admin", "cap_sys_boot"} & set(bounding)
    system.run("systemd-analyze security --threshold=60 edged-os.service --no-pager")
