"""Which variants of a bundle this device can run, and why the others are passed over. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from edged.bundle.manifest import Manifest, Variant
from edged.bundle.versions import satisfies
from edged.errors import Code
from edged.system.hardware import Hardware


class PassedOver(msgspec.Struct, frozen=True):
    """A variant that does not serve, and why."""

    variant: str
    code: str
    reason: str


def select(
    manifest: Manifest, hardware: Hardware, runtimes: Mapping[str, str | None]
) -> tuple[list[Variant], list[PassedOver]]:
    """The variants that may run here, best first, and the rest. `runtimes`: version by engine, None where absent."""
    runnable, passed_over = [], []
    for variant in manifest.variants:
        if objection := _objection(variant, hardware, runtimes):
            passed_over.append(PassedOver(variant.name, *objection))
        else:
            runnable.append(variant)
    return runnable, passed_over


def choose(runnable: Sequence[Variant], preferred: str, avoided: Collection[str]) -> Variant:
    """Which of the variants that may run is to run: the preferred one, else the best.

    One of the `avoided` only where there is no other. Raises IndexError where there is none at all.
    """
    sound = [variant for variant in runnable if variant.name not in avoided] or runnable
    return next((variant for variant in sound if variant.name == preferred), sound[0])


def _objection(variant: Variant, hardware: Hardware, runtimes: Mapping[str, str | None]) -> tuple[Code, str] | None:
    needs = variant.requires
    version = runtimes.get(variant.runtime)
    missing = [name for name in needs.instruction_sets if name not in hardware.instruction_sets]
    if variant.hardware_classes and hardware.hardware_class not in variant.hardware_classes:
        classes = ", ".join(variant.hardware_classes)
        return Code.INCOMPATIBLE_HARDWARE, f"made for {classes}; this device is {hardware.hardware_class}"
    if needs.accelerator and needs.accelerator not in hardware.accelerators:
        there = ", ".join(sorted(hardware.accelerators)) or "none"
        return Code.INCOMPATIBLE_HARDWARE, f"needs the accelerator {needs.accelerator}; there is {there}"
    if missing:
        return Code.INCOMPATIBLE_HARDWARE, f"needs the CPU's {', '.join(missing)}, which it has not"
    if needs.memory_mib and hardware.memory_mib and needs.memory_mib > hardware.memory_mib:
        return Code.INCOMPATIBLE_HARDWARE, f"needs {needs.memory_mib} MiB; the device has {hardware.memory_mib}"
    if variant.runtime not in runtimes:
        known = ", ".join(runtimes)
        return Code.INCOMPATIBLE_RUNTIME, f"this release of edged has no runtime {variant.runtime}; it has {known}"
    if version is None:
        return Code.INCOMPATIBLE_RUNTIME, f"the runtime {variant.runtime} is not installed"
    if needs.runtime and not satisfies(version, needs.runtime):
        return Code.INCOMPATIBLE_RUNTIME, f"needs {variant.runtime} {needs.runtime}; {version} is installed"
    return None
