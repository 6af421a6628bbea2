"""onnxruntime alone, on the cores that servers have: not a server, and asked by nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from benchmarks.load import PATIENCE_S
from benchmarks.measure import Sample
from benchmarks.models import REPO, Model
from benchmarks.processes import Cores, pinned

NAME = "onnxruntime alone"


def sample(model: Model, seconds: float, cores: Cores, batches: Mapping[int, int] | None = None) -> Sample:
    """Runs a model for `seconds`, in batches of as many rows and in this proportion; the sample counts rows."""
    mix = ",".join(f"{rows}:{count}" for rows, count in (batches or {1: 1}).items())
    arguments = [sys.executable, "-m", "benchmarks.programs.engine", model.onnx, model.request, str(seconds), mix]
    with pinned(cores):
        done = subprocess.run(arguments, check=True, capture_output=True, cwd=REPO, timeout=seconds + PATIENCE_S)
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    rows = found["rows"]
    return Sample(answered=rows, elapsed_s=found["elapsed_s"], cpu_us=1e6 * found["cpu_s"] / rows)
