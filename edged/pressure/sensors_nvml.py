"""NVIDIA's GPUs: temperature with its thresholds, throttle reasons, power and memory.

Source: NVML (https://docs.nvidia.com/deploy/nvml-api/) through the package nvidia-ml-py, which is used where it is
installed and finds a driver; it loads only NVML, no engine. Jetson's integrated GPU has no NVML before L4T 36: its
temperature is a thermal zone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

from edged.pressure.probe import Probe, Value
from edged.pressure.readings import Trip

SOURCE = "NVML"

# NvmlClocksEventReasons. The power cap (0x4) and brake (0x80) are no heat; HwSlowdown may be either.
_HOT_REASONS = {0x8: "hardware slowdown", 0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown"}
_COLD_REASONS = 0x80
# nvmlTemperatureThresholds_t
_THRESHOLDS = ((3, "passive"), (1, "hot"), (0, "critical"))


def probes(module: str = "pynvml") -> list[Probe]:
    """All GPUs, asked for anew; none where the package or the driver is absent. Those of an earlier call end."""
    try:
        nvml = importlib.import_module(module)
    except ImportError:
        return []
    with contextlib.suppress(nvml.NVMLError):  # what was begun under a driver that is gone never answers again
        nvml.nvmlShutdown()
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    return [probe for index, handle in enumerate(handles) for probe in _gpu(nvml, index, handle)]


def _gpu(nvml: Any, index: int, handle: Any) -> list[Probe]:
    def ask(function: Callable[..., Any], *arguments: object) -> Any:
        """None for what this GPU does not tell."""
        try:
            return function(handle, *arguments)
        except nvml.NVMLError:
            return None

    def megabytes(field: str) -> Value:
        found = ask(nvml.nvmlDeviceGetMemoryInfo)
        return None if found is None else getattr(found, field) / 2**20

    def watts() -> Value:
        found = ask(nvml.nvmlDeviceGetPowerUsage)
        return None if found is None else found / 1000

    def celsius() -> Value:
        found = ask(nvml.nvmlDeviceGetTemperature, 0)
        return None if found is None else float(found)

    def trips() -> tuple[Trip, ...]:
        asked = ((kind, ask(nvml.nvmlDeviceGetTemperatureThreshold, number)) for number, kind in _THRESHOLDS)
        return tuple(Trip(kind, float(found)) for kind, found in asked if found)

    def throttled() -> Value:
        reasons = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        if reasons & 0x8 and reasons & _COLD_REASONS:
            reasons &= ~0x8  # the hardware slows down for its power supply, not for its heat
        return ", ".join(text for bit, text in _HOT_REASONS.items() if reasons & bit) or None

    gpu = f"nvidia{index}"
    made = functools.partial(Probe, source=SOURCE)
    return [
        made(name=f"{gpu}:temperature", unit="°C", read=celsius, trips=functools.cache(trips), steers=True),
        made(name=f"{gpu}:throttled", unit="", read=throttled, throttles=True),
        made(name=f"{gpu}:power", unit="W", read=watts),
        made(name=f"{gpu}:memory_used", unit="MiB", read=functools.partial(megabytes, "used")),
        made(name=f"{gpu}:memory_total", unit="MiB", read=functools.partial(megabytes, "total")),
    ]
