"""Resets an accelerator where the kernel offers that and the administrator lets edged.

Source: /sys/bus/pci/devices/.../reset, Documentation/ABI/testing/sysfs-bus-pci: there where the function can be reset
alone, and only root may write it unless a udev rule gives it to edged. GPUs are left out: others compute and draw on
them, and NVIDIA forbids it under a loaded driver.
"""

from __future__ import annotations

import os
from pathlib import Path

from edged.worker.child import Child, spawn

# By kind of accelerator: below its class device lies the PCI function.
_FILES = {"edgetpu": "sys/class/apex/apex_0/device/reset", "intel-npu": "sys/class/accel/accel0/device/reset"}


def offered(kind: str, root: Path) -> Path | None:
    """The file by which edged may reset it; None where it may not."""
    path = root / _FILES[kind] if kind in _FILES else None
    return path if path is not None and os.access(path, os.W_OK) else None


def begin(path: Path) -> Child:
    """Resets what the file belongs to, in a process of its own: the driver may never return. Raises OSError.

    It has worked where that ends with exit status 0; else the log says why.
    """
    return spawn("edged.pressure.reset_file", [str(path)], {}, [])
