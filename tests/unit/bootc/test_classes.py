"""What the hardware classes' drop-ins let the daemon reach, against what drivers call their devices."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from support.daemon import REPO

CLASSES = REPO / "systemd/classes"

# /proc/devices has the name that a driver gives alloc_chrdev_region(9): for a Jetson's GPU (nvgpu, os/linux/ioctl.c) it
# is that of the device, which is its address and its node in the device tree.
REGISTERED = [
    *(("jetson-vision-standard", name) for name in ("57000000.gpu", "17000000.gp10b", "17000000.gv11b")),
    *(("jetson-vision-standard", name) for name in ("17000000.ga10b", "17000000.gpu", "nvhost", "drm")),
    *(("factory-gateway-gpu", name) for name in ("nvidia", "nvidia-frontend", "nvidia-uvm", "nvidia-caps")),
    *(("intel-lowpower-detector", name) for name in ("drm", "accel")),
    ("coral-pcie", "apex"),
    ("coral-usb", "usb_device"),
]


@pytest.mark.parametrize(("hardware_class", "name"), REGISTERED)
def test_what_a_driver_registers_is_allowed(hardware_class: str, name: str) -> None:
    allowed = re.findall(r"^DeviceAllow=char-(\S+) rw$", (CLASSES / f"{hardware_class}.conf").read_text(), re.MULTILINE)
    assert any(fnmatchcase(name, pattern) for pattern in allowed)


@pytest.mark.parametrize("path", sorted(CLASSES.glob("*.conf")), ids=lambda path: path.name)
def test_no_path_has_a_wildcard_and_nothing_else_is_allowed(path: Path) -> None:
    """systemd.resource-control(5): wildcards are for the names of /proc/devices only."""
    for node in re.findall(r"^DeviceAllow=(/\S+)", path.read_text(), re.MULTILINE):
        assert not set("*?[") & set(node), node
    for pattern in re.findall(r"^DeviceAllow=char-(\S+)", path.read_text(), re.MULTILINE):
        assert not fnmatchcase("mem", pattern), pattern
        assert not fnmatchcase("input", pattern), pattern


@pytest.mark.parametrize("path", sorted(CLASSES.glob("*.rules")), ids=lambda path: path.name)
def test_a_rule_gives_nodes_to_the_group_that_its_drop_in_joins_and_its_description_makes(path: Path) -> None:
    (group,) = set(re.findall(r'GROUP="(\w+)"', path.read_text()))
    assert f"SupplementaryGroups={group}\n" in path.with_suffix(".conf").read_text()
    assert f"\ng {group} -\n" in path.with_suffix(".sysusers").read_text()
