"""A device as a folder on which all is as it should be, and ways to break it; what `edgectl doctor` finds there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edged.config.load import load
from edged.config.settings import Settings
from edged.ctl import certificates, nodes, reachable
from edged.ctl.checkup import CHECKS, Finding, Subject
from edged.document import DocumentError
from support.daemon import DIGITS

NOW = datetime.now(UTC) + timedelta(days=1)
UID = 54321

Break = Callable[[Path], None]


def make(root: Path) -> None:
    """Makes the device."""
    files = {
        "etc/passwd": f"root:x:0:0::/:/bin/sh\nedged:x:{os.getuid()}:{os.getgid()}::/:/bin/sh\n",
        "etc/group": f"edged:x:{UID}:\nedged-admin:x:54322:edged\nvideo:x:{os.getgid()}:\n",
        "usr/lib/systemd/system/edged.service": "",
        "proc/pressure/memory": "",
        "sys/kernel/security/lsm": "capability,landlock",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory pids",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "edged.service").symlink_to("/usr/lib/systemd/system/edged.service")
    for name, mode in (("var/lib/edged", 0o700), ("run/edged", 0o750), ("run/edged-admin", 0o2750)):
        folder = root / name
        folder.mkdir(parents=True)
        folder.chmod(mode)
    shutil.copytree(DIGITS, root / "usr/share/edged/models/digits/1")


def find(root: Path, now: datetime = NOW, *, synchronized: bool | None = True) -> list[Finding]:
    try:
        settings = load(root).settings
    except DocumentError:
        settings = Settings()
    subject = Subject(root, (), settings, now, synchronized)
    return [
        finding
        for check in (*CHECKS.values(), nodes.check, certificates.check, *reachable.CHECKS.values())
        for finding in check(subject)
    ]


def put(name: str, content: str = "") -> Break:
    def change(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    return change


def mode(name: str, bits: int) -> Break:
    return lambda root: (root / name).chmod(bits)


def remove(name: str) -> Break:
    return lambda root: (root / name).unlink()


def in_class(name: str, *nodes: str) -> Break:
    def change(root: Path) -> None:
        put("etc/edged/edged.toml", f'[device]\nhardware_class = "{name}"\n')(root)
        for node in nodes:
            put(node, "")(root)
            (root / node).chmod(0o660)
            os.chown(root / node, -1, 9)

    return change


def usb(root: Path, name: str, vendor: str, product: str, node: str) -> None:
    bus, number = node.split("/")
    told = {"idVendor": vendor, "idProduct": product, "busnum": int(bus), "devnum": int(number)}
    for attribute, value in told.items():
        put(f"sys/bus/usb/devices/{name}/{attribute}", f"{value}\n")(root)
    in_class("coral", f"dev/bus/usb/{node}")(root)
