"""What this device is: read once at start from /proc, /dev and /sys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

# The device nodes by which each kind of accelerator shows that it is there.
_ACCELERATOR_NODES = {
    "nvidia": ("nvidia0", "nvhost-gpu", "nvgpu"),
    "intel-gpu": ("dri/renderD128",),
    "intel-npu": ("accel/accel0",),
    "edgetpu": ("apex_0",),
}

# Those on USB have a node of no name of their own and show by vendor and product: an Edge TPU first by those of its
# maker, then by Google's once its firmware is loaded (libedgetpu: kTargetDfuVendorId, kTargetAppVendorId).
_ACCELERATORS_ON_USB = {"edgetpu": (("1a6e", "089a"), ("18d1", "9302"))}


class Hardware(msgspec.Struct, frozen=True):
    """The facts by which variants are chosen."""

    hardware_class: str
    instruction_sets: frozenset[str] = frozenset()
    memory_mib: int = 0
    accelerators: frozenset[str] = frozenset()


def read(hardware_class: str, root: Path = Path("/")) -> Hardware:
    """Reads the device's facts under `root`. What cannot be read is absent: no instruction set, 0 MiB.

    A root without /proc or /dev of its own is a folder on this machine, which is then read instead.
    """
    return Hardware(
        hardware_class=hardware_class,
        instruction_sets=_instruction_sets(_own(root, "proc") / "cpuinfo"),
        memory_mib=_memory_mib(_own(root, "proc") / "meminfo"),
        accelerators=frozenset(kind for kind in _ACCELERATOR_NODES if present(kind, root)),
    )


def present(accelerator: str, root: Path = Path("/")) -> bool:
    """Whether a device of that kind of accelerator is there."""
    nodes = _ACCELERATOR_NODES.get(accelerator, ())
    return any((_own(root, "dev") / node).exists() for node in nodes) or any(on_usb(accelerator, root))


def gpus(root: Path = Path("/")) -> tuple[str, ...]:
    """NVIDIA's GPUs, as their driver calls them, or the module that one is part of, as its device tree does.

    Source: the driver's README, "/proc interface"; the devicetree specification, property `model` of the root.
    """
    cards = sorted((_own(root, "proc") / "driver/nvidia/gpus").glob("*/information"))
    named = [line.partition(":")[2].strip() for card in cards for line in _lines(card) if line.startswith("Model:")]
    if not named and present("nvidia", root):
        named = [line.rstrip("\0") for line in _lines(_own(root, "proc") / "device-tree/model")]
    return tuple(named)


def on_usb(accelerator: str, root: Path = Path("/")) -> Iterator[Path]:
    """The nodes of accelerators of that kind on USB, by what sysfs tells of each device."""
    wanted = _ACCELERATORS_ON_USB.get(accelerator, ())
    for device in sorted((_own(root, "sys") / "bus/usb/devices").glob("*")) if wanted else ():
        if (_told(device, "idVendor"), _told(device, "idProduct")) in wanted:
            bus, number = _told(device, "busnum").zfill(3), _told(device, "devnum").zfill(3)
            if (node := _own(root, "dev") / "bus/usb" / bus / number).exists():
                yield node


def _told(device: Path, name: str) -> str:
    """An attribute; empty where there is none, as of an interface, or the device has just gone."""
    return "".join(_lines(device / name)).strip()


def _own(root: Path, folder: str) -> Path:
    return root / folder if (root / folder).is_dir() else Path("/") / folder


def _instruction_sets(cpuinfo: Path) -> frozenset[str]:
    """x86 calls them flags, Arm Features."""
    for line in _lines(cpuinfo):
        key, _, rest = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(rest.split())
    return frozenset()


def _memory_mib(meminfo: Path) -> int:
    for line in _lines(meminfo):
        if found := re.match("MemTotal: *([0-9]+) kB", line):
            return int(found[1]) // 1024
    return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
