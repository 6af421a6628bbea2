"""The models that are asked, as files: their bundles, and one request each in the protocol's bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

REPO = Path(__file__).resolve().parents[1]
INDEX = "index.json"
BUILD_S = 120

# What serving.py asks, by name; small models of the same kind for memory.py are SMALL with a number.
NAMES = ("identity", "mlp", "digits", "camera", "convnet")
SMALL = "small"

# What saturation.py asks besides: the convnet of a bundle that would rather wait for a whole batch than answer soon.
PATIENT = "convnet-patient"


class Model(msgspec.Struct, frozen=True):
    """One model that can be asked. Paths are absolute."""

    name: str
    bundle: str
    onnx: str
    model_bytes: int
    request: str
    """A file with one ModelInferRequest."""
    request_bytes: int
    answer_bytes: int
    """The length of edged's answer to it."""


def build(folder: Path, smalls: int = 0) -> dict[str, Model]:
    """Makes every model of NAMES, PATIENT, and `smalls` small ones, below `folder`.

    In a process of its own: what it imports would be shared with the processes whose memory is measured.
    """
    subprocess.run(
        [sys.executable, "-m", "benchmarks.programs.models", str(folder), str(smalls)],
        check=True,
        cwd=REPO,
        timeout=BUILD_S,
    )
    built = msgspec.json.decode((folder / INDEX).read_bytes(), type=list[Model])
    return {model.name: model for model in built}
