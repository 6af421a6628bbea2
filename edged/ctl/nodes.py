"""Looks at the device nodes of the hardware class: there, and within reach of edged. `edgectl doctor` tells it."""

from __future__ import annotations

import grp
import stat
from collections.abc import Iterator
from pathlib import Path

from edged.ctl.checkup import Finding, Grade, Subject, edged_id, entries, supplementary_groups
from edged.system import hardware

# What the hardware classes of our own images reach their accelerators by: each line of a class is needed, and of a line
# any node will do.
_NODES: dict[str, tuple[tuple[str, ...], ...]] = {
    "intel-lowpower-detector": (("dev/dri/renderD*", "dev/accel/accel*"),),
    "factory-gateway-gpu": (("dev/nvidia[0-9]*",), ("dev/nvidiactl",), ("dev/nvidia-uvm",)),
    "jetson-vision-standard": (("dev/nvmap",), ("dev/nvhost-gpu", "dev/nvgpu/*/*", "dev/nvidia[0-9]*")),
    "raspberry-pi": (("dev/vcio",),),
}
_CORAL = "coral"


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
        nodes = [*sorted(subject.root.glob("dev/apex_*")), *hardware.on_usb("edgetpu", subject.root)]
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
