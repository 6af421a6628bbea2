"""The front moves bytes: neither numpy nor an engine is ever in it, in the running process as in principle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.calls import ELEMENTS, identity, pack, request, tensor
from support.daemon import Daemon

from edged.system import guard

# Parts of names of files that numpy and engines map into a process.
HEAVY = ("numpy", "openblas", "onnxruntime", "openvino", "tensorrt", "litert")


def heavy_files(pid: int) -> set[str]:
    """Files of numpy and engines among those that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    paths = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    return {path for path in paths if any(part in path.lower() for part in HEAVY)}


def test_the_front_has_neither_numpy_nor_an_engine(daemon: Daemon) -> None:
    """Also after it has carried every datatype; and its workers have both, so that this would be seen."""
    for datatype, values in ELEMENTS.items():
        daemon.infer(request(identity(datatype), tensor("x", datatype, [2, 2]), raw=[pack(datatype, values)]))
    assert heavy_files(daemon.pid) == set()
    for worker in daemon.status().workers:
        files = heavy_files(worker.pid)
        assert any("numpy" in path for path in files)
        assert any("onnxruntime" in path for path in files)


GUARDED = """
from edged.system import guard
guard.install()
try:
    import {name}
except ImportError as error:
    print(error)
"""


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["numpy", "numpy.linalg", "onnxruntime", "openvino", "tensorrt", "ai_edge_litert"])
def test_the_guard_refuses_the_import(name: str) -> None:
    assert name.partition(".")[0] in guard.FORBIDDEN
    said = run(GUARDED.format(name=name))
    assert said == f"{name.partition('.')[0]} is not imported in edged's front; it belongs in a worker"


@pytest.mark.parametrize("name", ["json", "edged.serving.service"])
def test_the_guard_lets_everything_else_pass(name: str) -> None:
    assert run(GUARDED.format(name=name)) == ""


def test_all_of_the_front_is_imported_under_the_guard() -> None:
    """What the daemon imports at its start holds none of them, before a request comes."""
    code = "import sys; from edged.system import guard; guard.install(); import edged.app; print(*sys.modules)"
    modules = {module.partition(".")[0] for module in run(code).split()}
    assert "edged" in modules
    assert modules & guard.FORBIDDEN == set()
