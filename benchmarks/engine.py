"""onnxruntime alone, on the cores that servers have: not a server, and asked by nobody."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec

from benchmarks.load import PATIENCE_S
from benchmarks.measure import Sample
from benchmarks.models import REPO, Model
from benchmarks.processes import Cores, pinned

NAME = "onnxruntime alone"


def sample(model: Model, seconds: float, cores: Cores) -> Sample:
    """Runs a model for `seconds`."""
    arguments = [sys.executable, "-m", "benchmarks.programs.engine", model.onnx, model.request, str(seconds)]
    with pinned(cores):
        done = subprocess.run(arguments, check=True, capture_output=True, cwd=REPO, timeout=seconds + PATIENCE_S)
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    runs = found["runs"]
    return Sample(answered=runs, elapsed_s=found["elapsed_s"], cpu_us=1e6 * found["cpu_s"] / runs)
