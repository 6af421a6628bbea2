"""A device whose operating system an operator commands: its folders, its daemon's mailbox, its bootc."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edged.fleet import command as commands
from edged.fleet import operators
from edged.oshelper.__main__ import main
from edged.system import deployment
from edged.system.os_requests import OsRequests, OsResult
from edged.telemetry.messages import Command
from support.bootc import Bootc, host, slot
from support.fleets import Device, Fleet, make_fleet

ALICE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MAY = ("os_upgrade", "os_switch", "os_rollback", "install")


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet whose operator alice may command the operating system."""
    fleet = make_fleet(tmp_path_factory.mktemp("fleet") / "shops")
    operators.add(fleet.signing(), "alice", public(ALICE), MAY, ())
    return fleet


class Machine:
    """A device's folders below a root, its daemon's mailbox and its bootc."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self.root = folder / "root"
        self.state = self.root / "var/lib/edged"
        self.fleet = fleet
        self.bootc = Bootc(folder / "os")
        self.set('[update]\nwindow = ""\n')
        trust = self.root / "usr/share/edged/trust/root.json"
        trust.parent.mkdir(parents=True)
        shutil.copy(fleet.root, trust)
        self.requests.make_folders()
        self.fetch()

    @property
    def requests(self) -> OsRequests:
        """The daemon's side, in this boot."""
        return OsRequests(self.state, deployment.boot_id(self.root))

    def boots(self, boot: str, number: int, made: Callable[[int], dict[str, object]] = slot) -> None:
        """It has restarted, into the image's build `number`."""
        path = self.root / "proc/sys/kernel/random/boot_id"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{boot}\n")
        self.bootc.says(host(booted=made(number)))

    def set(self, more: str) -> None:
        path = self.root / "etc/edged/edged.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'[device]\nname = "till-7"\nfleet = "shops"\n{more}')

    def fetch(self) -> None:
        """The daemon's fetcher brings plan and metadata."""
        device = Device(self.state / "update", self.fleet.root, self.fleet.url)
        device.metadata = self.state / "update/metadata"
        assert device.plan().status == 0

    def drop(self, envelope: bytes, nonce: str) -> None:
        self.requests.drop(nonce, envelope)

    def run(self) -> int:
        return main(["--root", str(self.root)])

    def result(self, nonce: str) -> OsResult:
        found = self.requests.result(nonce)
        assert found is not None
        return found

    def refused(self, envelope: bytes, nonce: str) -> str:
        """Has the helper look at a command that it must refuse; gives the code."""
        self.drop(envelope, nonce)
        assert self.run() == 0
        assert self.bootc.changes == []
        found = self.result(nonce)
        assert found.status == "refused"
        assert found.text
        return found.code


@pytest.fixture
def machine(tmp_path: Path, commanded: Fleet, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, commanded)
    monkeypatch.setenv("PATH", str(made.bootc.bin), prepend=":")
    assert made.run() == 0  # from now on it remembers
    return made


def command(name: str = "os_upgrade", **changes: object) -> Command:
    arguments = changes.pop("arguments", {})
    now = changes.pop("now", datetime.now(UTC) + timedelta(seconds=1))
    made = commands.make(
        name, arguments, fleet="shops", device="till-7", hardware_class="", now=now, valid=timedelta(hours=1)
    )
    return msgspec.structs.replace(made, **changes)


def signed(found: Command, key: Ed25519PrivateKey = ALICE) -> bytes:
    return commands.seal(found, key)


def later() -> str:
    """A window in some hours."""
    hour = datetime.now().astimezone().hour
    return f"{(hour + 3) % 24:02}:00-{(hour + 4) % 24:02}:00"


STAGED = host(booted=slot(1), staged=slot(2))


def staged(machine: Machine) -> Command:
    """An upgrade that is to be booted next."""
    machine.bootc.after("upgrade", STAGED)
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    return wanted
