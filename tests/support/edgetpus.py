"""An Edge TPU where there is none: a library that stands in for libedgetpu.so.1, built from edgetpu.c beside this."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.bundles import make_bundle
from support.tflites import compiled

LIBRARY = "libedgetpu.so.1"
ADDRESS = 0x7E000000 + os.getpid()
"""Of netlink: who has it has the Edge TPU. Tests that run at the same time elsewhere have one of their own."""

LIGHTER = """
[[variants]]
name = "lighter"
runtime = "edgetpu"
file = "lighter.tflite"
options = { device = "CPU" }
"""
"""A variant beside one for an Edge TPU, that computes on the CPU."""


def build_library(folder: Path) -> Path:
    """Puts the library into `folder`, for LD_LIBRARY_PATH; gives the folder. Skips the test where nothing compiles."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("edgetpu.c")
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        f"-DADDRESS={ADDRESS}",
        "-o",
        str(folder / LIBRARY),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


def bundle_of_one_variant(folder: Path, name: str = "small", *, told: bytes = b"", extra: str = "") -> Path:
    """A bundle of one compiled model, x to y of INT8, that has no variant but the one for an Edge TPU, with `extra`.

    `told`: what fails, as edgetpu.c has it.
    """
    tensors = [("x", "INT8", [1, 4])], [("y", "INT8", [1, 4])]
    return make_bundle(
        folder / name,
        compiled(told),
        *tensors,
        name=name,
        extra=extra,
        max_batch_size=0,
        runtime="edgetpu",
        file="model.tflite",
    )
