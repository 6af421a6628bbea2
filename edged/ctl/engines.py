"""Tries whether the installed engines can be imported, each in a process of its own, and whether that of the hardware
class is installed. `edgectl doctor` tells it.

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

# The engine without which a hardware class computes on its CPU alone.
_OF_CLASS = {"coral": "edgetpu"}

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
    """Every engine that is installed beside this edgectl; that of the class with the libraries of its devices."""
    hardware_class = subject.settings.device.hardware_class
    for engine in ENGINES.values():
        is_of_class = _OF_CLASS.get(hardware_class) == engine.name
        if engine.version() is None:
            if is_of_class:
                found = (
                    f"the class {hardware_class} computes by {engine.name}, and {engine.distributions[0]} is missing"
                )
                yield Finding("engines", Grade.FAULT, found, f"install it with: pip install 'edged[{engine.extra}]'")
        elif why := _why_not(engine, engine.libraries if is_of_class else ()):
            remedy = (
                f"install the library that is named, or the engine anew: `pip install 'edged[{engine.extra}]'`"
                " in the image's environment"
            )
            yield Finding("engines", Grade.FAULT, why, remedy)


def _why_not(engine: Engine, libraries: Sequence[str]) -> str:
    """Why it cannot be imported; empty where it can."""
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and a name of the table
            [sys.executable, "-B", "-P", "-c", _IMPORT, engine.name, *libraries],
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
