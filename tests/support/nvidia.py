"""NVIDIA's driver and TensorRT as `libcuda.c` and `nvidia_site` stand for them, installed in a folder of a test.

What a GPU computes, how fast, and what a driver really refuses is not in them: `test_tensorrt_gpu.py` needs one.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec

from edged.runtimes.base import SessionOptions
from edged.worker.messages import Load
from support.interpreter import TESTS, hostile_interpreter

COMPILER = shutil.which("gcc")
VERSION = "10.3.0"


class Nvidia:
    """An interpreter whose packages have TensorRT, and a folder with the driver's library."""

    def __init__(self, folder: Path, version: str = VERSION) -> None:
        self.interpreter = hostile_interpreter(folder / "venv")
        (site,) = (folder / "venv").glob("lib/*/site-packages")
        (site / "nvidia.pth").write_text(f"{TESTS / 'support/nvidia_site'}\n")
        installed = site / f"tensorrt-{version}.dist-info"
        installed.mkdir()
        (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
        self.libraries = folder / "lib"
        self.libraries.mkdir()
        self._library = self.libraries / "libcuda.so.1"
        self._compile(str(TESTS / "support/libcuda.c"))

    def fail(self, call: str, code: int, after: int = 0, times: int = 1000) -> None:
        """Has a call of the driver, or `launch`, give this CUresult once it was made `after` times in a process."""
        self._say(f"{call} {code} {after} {times}")

    def have(self, *, devices: int = 1, memory_bytes: int = 2**30) -> None:
        """Has as many GPUs, with so much memory."""
        self._say(f"devices {devices} 0 0\nmemory {memory_bytes} 0 0")

    def _say(self, line: str) -> None:
        with (self.libraries / "faults").open("a") as file:
            file.write(f"{line}\n")

    def mend(self) -> None:
        """All is well again, for processes that begin now."""
        (self.libraries / "faults").unlink(missing_ok=True)

    def remove_driver(self) -> None:
        """As on a machine that has the packages alone."""
        self._library.unlink()

    def age_driver(self) -> None:
        """Has a driver that knows none of the calls."""
        self._compile("-x", "c", "/dev/null")

    def _compile(self, *source: str) -> None:
        command = [COMPILER or "gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, "-Wl,-soname,libcuda.so.1", "-o", str(self._library), *source], check=True)


def by_tensorrt(load: Load, **options: object) -> Load:
    """What has a worker load a model, as `edged.models.loading` has it load one of TensorRT."""
    shapes = {tensor.name: tensor.shape for tensor in load.inputs}
    told = SessionOptions(threads=1, max_batch_size=load.max_batch_size, shapes=shapes)
    source = msgspec.structs.replace(load.source, runtime="tensorrt", options=msgspec.structs.replace(told, **options))
    return msgspec.structs.replace(load, source=source)
