"""The front can import neither numpy nor an engine; everything else it can."""

import subprocess
import sys

import pytest

from edged.runtimes.base import ENGINES
from edged.system import guard


def run(code):
    """In a process of its own: what a guard keeps out, it keeps out for good."""
    begin = "from edged.system import guard\nguard.install()\n"
    return subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True)


@pytest.mark.parametrize("name", sorted(guard.FORBIDDEN))
def test_what_belongs_in_a_worker_cannot_be_imported(name):
    done = run(f"import {name}")
    assert done.returncode == 1
    assert f"ImportError: {name} is not imported in edged's front; it belongs in a worker" in done.stderr


@pytest.mark.parametrize("name", ["numpy.linalg", "onnxruntime.capi"])
def test_nor_can_a_part_of_it(name):
    assert "belongs in a worker" in run(f"import {name}").stderr


def test_nor_an_engines_own_file():
    assert "belongs in a worker" in run("import edged.runtimes.onnxruntime").stderr


def test_nor_what_would_be_imported_where_it_may():
    done = run("try:\n    import numpy\nexcept ImportError:\n    print('without')")
    assert (done.returncode, done.stdout) == (0, "without\n")


def test_everything_else_can():
    done = run("import json, grpc, msgspec, numbers\nimport edged.app, edged.runtimes.base")
    assert done.returncode == 0, done.stderr


def test_what_sounds_alike_can(tmp_path):
    (tmp_path / "numpy_like.py").write_text("")
    assert run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import numpy_like").returncode == 0


def test_every_engine_is_kept_out():
    packages = {engine.distributions[0].replace("-", "_") for engine in ENGINES.values()}
    assert packages <= guard.FORBIDDEN
