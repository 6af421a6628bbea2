"""What a worker keeps of what its user may do: it gives the rest up before it opens a model. Child's end only.

A model comes from somebody else and is run by an engine in native code. It reads its bundle and writes nothing; it
opens no connection, starts no program, and touches no process but its own. Each layer is the kernel's; where a kernel
has it not, the worker runs on with the others and says so.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import sys
from collections.abc import Iterator, Mapping

from edged.runtimes.base import ENGINES, Engine
from edged.worker import landlock, seccomp
from edged.worker.landlock import DEVICE, READ, Access

# prctl(2).
_PR_SET_MDWE = 65
_PR_MDWE_REFUSE_EXEC_GAIN = 1

# Where libraries of the system lie, and of vendors (/usr/local/cuda); not all of /usr, where other bundles lie too.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local", "/etc/ld.so.cache", "/etc/localtime")

# What describes the machine to an engine that shares out its cores and memory.
_MACHINE = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/sys/vm", "/sys")

ANY_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# What holds a worker, and what does not though it should, in words.
Confined = tuple[tuple[str, ...], tuple[str, ...]]


def confine(folder: str, runtime: str, device: str, more: Mapping[str, Access]) -> Confined:
    """Gives up all that a worker of `runtime` on `device` does not need for the bundle in `folder`; no way leads back.

    `more`: what it may do with which files outside the bundle.
    To be called while the process has one thread. An engine that does not exist needs nothing.
    """
    engine = (ENGINES.get(runtime) or Engine(runtime, "", (), "", {})).on(device)
    holds: list[str] = []
    lacks: list[str] = []
    for what, restrict in (
        ("no new privileges", landlock.no_new_privileges),
        ("no new code", _no_new_code if not engine.compiles else None),
        ("Landlock", lambda: _landlock({**dict(_allowed(folder, engine)), **more})),
        ("system-call filter", lambda: seccomp.restrict(hears=engine.hears_devices)),
    ):
        if restrict is None:
            continue
        try:
            holds.append(restrict() or what)
        except OSError as error:
            lacks.append(f"{what} ({error.strerror})")
    return tuple(holds), tuple(lacks)


def _no_new_code() -> None:
    """Memory that was ever written is never executed (Linux 6.3)."""
    _prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN)


def _landlock(allowed: Mapping[str, Access]) -> str:
    version = landlock.abi()
    if not version:
        raise OSError(errno.ENOSYS, "this kernel has none, or it is not switched on")
    landlock.restrict(version, allowed)
    return f"Landlock ABI {version}"


def _allowed(folder: str, engine: Engine) -> Iterator[tuple[str, Access]]:
    for path in (folder, *code(), *_MACHINE, *engine.reads):
        yield path, READ
    for path in engine.writes:
        yield path, READ | Access.WRITE_FILE
    for pattern in engine.devices:
        for path in glob.glob(pattern):  # noqa: PTH207 - absolute patterns, which Path.glob refuses
            yield path, DEVICE
    for path in ANY_DEVICES:
        yield path, DEVICE


def code() -> Iterator[str]:
    """Where this interpreter's own code and its libraries lie."""
    yield from filter(None, [*sys.path, f"{sys.base_prefix}/lib", *os.environ.get("LD_LIBRARY_PATH", "").split(":")])
    yield from _LIBRARIES


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
