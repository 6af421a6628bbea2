"""Asks OpenVINO, in a process of its own, which devices it finds behind the nodes of an Intel module's GPU and NPU.
`edgectl doctor` tells it.

The kernel makes a node, and what computes through it comes with the operating system: without that, OpenVINO knows the
CPU alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from edged.ctl.checkup import Finding, Grade, Subject
from edged.runtimes.base import ENGINES

_CLASS = "intel-lowpower-detector"

# Of each device, as OpenVINO calls it: its nodes, and what brings it.
_DEVICES = {
    "GPU": ("dev/dri/renderD*", "its driver for OpenCL, such as intel-compute-runtime"),
    "NPU": ("dev/accel/accel*", "its firmware, linux-npu-driver and the Level Zero loader"),
}

# Drivers are loaded, off slow flash.
_LIMIT_S = 45.0

_ASK = """
from edged.runtimes.base import load_runtime
print(*load_runtime("openvino").devices())
"""


def check(subject: Subject) -> Iterator[Finding]:
    """Devices of the class that have a node and no driver that OpenVINO finds."""
    if subject.settings.device.hardware_class != _CLASS:
        return
    nodes = {name: sorted(subject.root.glob(pattern)) for name, (pattern, _) in _DEVICES.items()}
    if not any(nodes.values()) or (found := _found()) is None:
        return
    for name, (_, needed) in _DEVICES.items():
        if nodes[name] and name not in found:
            yield Finding(
                "drivers",
                Grade.WARNING,
                f"OpenVINO finds no {name} behind {nodes[name][0]}, so models run on the CPU",
                f"have the base of the image bring {needed}; see bootc/overlays",
            )


def _found() -> set[str] | None:
    """What OpenVINO finds, such as `GPU`, which of several stand as `GPU.0` and `GPU.1`; None where it does not say."""
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-s", "-P", "-B", "-c", _ASK],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            env={**os.environ, **ENGINES["openvino"].environment},
        )
    except (OSError, subprocess.SubprocessError):
        return None  # what keeps it from starting is told of the engines
    return {device.partition(".")[0] for device in done.stdout.split()}
