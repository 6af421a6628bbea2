"""An engine that builds: what its model file says happens as it builds, or as it loads what it built.

Only interpreters made by `support.interpreter` know it. What it builds doubles its input, as `hostile_engine` does.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from pathlib import Path

from edged.errors import Code, EdgedError
from edged.runtimes.base import SessionOptions
from support.hostile_engine import Session

_MIB = 2**20


def open_session(model: bytes, options: SessionOptions) -> Session:
    """Loads a model as it is, which nobody asks of a derived variant."""
    del model, options
    raise EdgedError(Code.LOAD_FAILED, "it is to be built first")


def derive(model: bytes, options: SessionOptions) -> bytes:
    """Builds, after what the model says; `size` bytes or a few."""
    del options
    asked = json.loads(model)
    match asked["building"]:
        case "hang":
            while True:
                ctypes.CDLL(None).pause()
        case "segfault":
            ctypes.string_at(0)
        case "allocate":
            taken = []
            while True:
                taken.append(b"\1" * _MIB)
                time.sleep(0)
        case "fail":
            raise EdgedError(Code.LOAD_FAILED, "the model has an operator that is not known")
        case "wait":
            while not Path(asked["for"]).exists():
                time.sleep(0.01)
        case "write":
            os.open(asked["path"], os.O_WRONLY | os.O_CREAT)
        case "":
            pass
    return model.ljust(asked.get("size", 0))


def open_derived(derived: bytes, options: SessionOptions) -> Session:
    """Loads what was built."""
    del options
    asked = json.loads(derived)
    if asked.get("loading") == "refuse":
        raise EdgedError(Code.LOAD_FAILED, "this is not what it built")
    if asked.get("loading") == "peek":
        readable = [path for path in Path(asked["cache"]).iterdir() if _is_readable(path)]
        if len(readable) != 1 or readable[0].read_bytes() != derived:
            raise EdgedError(Code.LOAD_FAILED, f"it can read {readable}")
    return Session("shape")


def _is_readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True
