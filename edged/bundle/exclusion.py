"""Which variants cannot be loaded beside each other, since one process at a time can have their device. Pure."""

from __future__ import annotations

from edged.bundle.manifest import Variant
from edged.runtimes.base import ENGINES


def excludes(one: Variant, other: Variant) -> bool:
    """Whether while a worker of `one` is up none of `other` can be.

    Devices are told apart by their kind and number, `usb:1`; one that lacks either may be any.
    """
    engine = ENGINES.get(one.runtime)
    if engine is None or not engine.alone or other.runtime != one.runtime:
        return False
    devices = one.options.device, other.options.device
    if engine.cpu and engine.cpu in devices:
        return False
    (kind, _, number), (other_kind, _, other_number) = (device.partition(":") for device in devices)
    if kind != other_kind:
        return not kind or not other_kind
    return not number or not other_number or number == other_number
