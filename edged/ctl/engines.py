"""Looks for the engines that a device needs, and tries those that it has, each in a process. `edgectl doctor` tells it.

An engine is a package and the libraries that it links: a package can be there and its libraries not, and an engine may
end the process that imports it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from edged.ctl.checkup import Finding, Grade, Subject
from edged.runtimes.base import ENGINES, Engine

# An engine of some hundred MiB, off slow flash.
_LIMIT_S = 45.0

# What computes on the accelerator of the hardware classes of our own images; models run on the CPU without it.
_NEEDED = {
    "coral": "edgetpu",
    "factory-gateway-gpu": "tensorrt",
    "intel-lowpower-detector": "openvino",
    "jetson-vision-standard": "tensorrt",
}

_IMPORT = """
import ctypes, sys
from edged.errors import EdgedError
from edged.runtimes.base import load_runtime
try:
    load_runtime(sys.argv[1])
    for library in sys.argv[2:]:
        ctypes.CDLL(library)
except EdgedError as error:
    sys.exit(error.message)
except OSError as error:
    sys.exit(f"runtime {sys.argv[1]!r} has no accelerator: {error}")
"""


def check(subject: Subject) -> Iterator[Finding]:
    """Every engine that is installed beside this edgectl, and the one that the hardware class is for."""
    hardware_class = subject.settings.device.hardware_class
    needed = ENGINES.get(_NEEDED.get(hardware_class, ""))
    if needed is not None and needed.version() is None:
        found = f"the class {hardware_class} computes by {needed.name}, which this Python does not find"
        yield Finding("engines", Grade.WARNING, f"{found}: models run on the CPU, if at all", needed.remedy)
    for engine in ENGINES.values():
        if engine.version() is not None and (why := _why_not(engine, engine.libraries if engine is needed else ())):
            remedy = f"install the library that is named in the image, or the engine anew: {engine.remedy}"
            yield Finding("engines", Grade.FAULT, why, remedy)


def _why_not(engine: Engine, libraries: Sequence[str]) -> str:
    """Why it cannot be imported; empty where it can."""
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and a name of the table
            [sys.executable, "-s", "-P", "-B", "-c", _IMPORT, engine.name, *libraries],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            env={**os.environ, **engine.environment},
        )
    except subprocess.TimeoutExpired:
        return f"{engine.name} was not imported within {_LIMIT_S:g} s"
    except OSError as error:
        return f"{engine.name} cannot be tried: {error.strerror}"
    if done.returncode < 0:
        return f"{engine.name} ended the process that imported it ({signal.Signals(-done.returncode).name})"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return (said[-1] if said else f"{engine.name} cannot be imported") if done.returncode else ""
