"""Battery and mains.

Source: /sys/class/power_supply, Documentation/ABI/testing/sysfs-class-power.
"""

from __future__ import annotations

from pathlib import Path

from edged.pressure import files, sensors_throttle
from edged.pressure.readings import Power

_MAINS = ("Mains", "USB", "USB_C", "USB_PD", "USB_DCP", "USB_CDP", "Wireless")


def read(root: Path) -> Power | None:
    """None where the device says nothing of its supply.

    With several batteries the emptiest counts, mains counts when any supply is online. A battery of something attached
    (`scope` is Device, as of a mouse) does not power this device.
    """
    mains: bool | None = None
    charges = []
    for supply in _supplies(root):
        if files.text(supply / "scope") == "Device":
            continue
        kind = files.text(supply / "type")
        if kind in _MAINS and (online := files.number(supply / "online")) is not None:
            mains = bool(mains) or online > 0
        elif kind == "Battery" and files.text(supply / "present") != "0":
            charge = files.number(supply / "capacity")
            if charge is not None and 0 <= charge <= 100:
                charges.append(charge)
    undervoltage = sensors_throttle.undervoltage(root)
    if mains is None and not charges and undervoltage is None:
        return None
    return Power(mains, min(charges, default=None), undervoltage)


def _supplies(root: Path) -> list[Path]:
    try:
        return sorted((root / "sys/class/power_supply").iterdir())
    except OSError:
        return []
