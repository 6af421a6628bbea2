"""Looks at the device nodes of the hardware class: there, and within reach of edged. `edgectl doctor` tells it."""

from __future__ import annotations

import grp
import stat
from collections.abc import Iterator
from pathlib import Path

from edged.ctl.checkup import Finding, Grade, Subject, edged_id, entries, supplementary_groups

# What the hardware classes of our own images reach their accelerators by: each line of a class is needed, and of a line
# any node will do.
_NODES: dict[str, tuple[tuple[str, ...], ...]] = {
    "intel-lowpower-detector": (("dev/dri/renderD*", "dev/accel/accel*"),),
    "factory-gateway-gpu": (("dev/nvidia[0-9]*",), ("dev/nvidiactl",), ("dev/nvidia-uvm",)),
    "jetson-vision-standard": (("dev/nvmap",), ("dev/nvhost-gpu", "dev/nvgpu/*/*")),
    "raspberry-pi": (("dev/vcio",),),
}
_CORAL = "coral"

# A USB Coral before and after its firmware was loaded, as lsusb(8) shows it: vendor and product.
_CORAL_STICKS = {("1a6e", "089a"), ("18d1", "9302")}


def check(subject: Subject) -> Iterator[Finding]:
    """The device nodes."""
    hardware_class = subject.settings.device.hardware_class
    nodes: list[Path] = []
    for patterns in _NODES.get(hardware_class, ()):
        found = sorted(path for pattern in patterns for path in subject.root.glob(pattern))
        if not found:
            yield _missing(hardware_class, "/" + " or /".join(patterns))
        nodes += found
    if hardware_class == _CORAL:
        nodes = [*sorted(subject.root.glob("dev/apex_*")), *_coral_sticks(subject.root)]
        if not nodes:
            yield _missing(hardware_class, "/dev/apex_*, or a USB Coral")
    groups = _groups_of_edged(subject.root)
    for node in nodes if groups is not None else ():
        mode, group = node.stat().st_mode, node.stat().st_gid
        if not mode & stat.S_IWOTH and not (mode & stat.S_IWGRP and group in (groups or ())):
            yield _fault(
                f"edged may not use {node}, which is for the group {_group(group)}",
                "install the drop-in of the hardware class (systemd/classes), or add SupplementaryGroups= in one",
            )


def _missing(hardware_class: str, what: str) -> Finding:
    return _fault(
        f"the class {hardware_class} needs {what}, and there is none",
        "load its driver, make the nodes before edged starts, or set another device.hardware_class",
    )


def _coral_sticks(root: Path) -> Iterator[Path]:
    """The nodes of USB Corals, by what sysfs tells of each device."""
    for device in sorted((root / "sys/bus/usb/devices").glob("*")):
        if (_told(device, "idVendor"), _told(device, "idProduct")) not in _CORAL_STICKS:
            continue
        node = root / "dev/bus/usb" / _told(device, "busnum").zfill(3) / _told(device, "devnum").zfill(3)
        if node.exists():
            yield node


def _told(device: Path, name: str) -> str:
    """An attribute; empty where there is none, as of an interface, or the device has just gone."""
    try:
        return (device / name).read_text(errors="replace").strip()
    except OSError:
        return ""


def _groups_of_edged(root: Path) -> set[int] | None:
    """The group ids that edged runs with; None where there is no such user."""
    if edged_id(root) is None:
        return None
    wanted = {"edged", *(group for _, group in supplementary_groups(root))}
    found = set()
    for entry in entries(root, "group"):
        name, _, number, members, *_ = [*entry, "", "", ""]
        if number.isdigit() and (name in wanted or "edged" in members.split(",")):
            found.add(int(number))
    return found


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _fault(found: str, remedy: str) -> Finding:
    return Finding("devices", Grade.FAULT, found, remedy)
