"""A bundle in order, from which each test takes or breaks what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

GOOD = """\
name = "digits"
revision = 7
min_revision = 2
max_batch_size = 8

[[inputs]]
name = "image"
datatype = "FP32"
shape = [-1, 1, 8, 8]

[[outputs]]
name = "scores"
datatype = "FP32"
shape = [-1, 3]
labels = ["a", "b", "c"]

[[warmup]]
file = "warmup.npz"

[[variants]]
name = "fp32"
runtime = "onnxruntime"
file = "model.onnx"
requires = { runtime = ">=1.20,<2", memory_mib = 60 }
caps = { memory_mib = 200 }

[[variants]]
name = "int8"
runtime = "onnxruntime"
file = "int8/model.onnx"

[[acceptance.goldens]]
file = "goldens.npz"
variants = ["fp32"]

[[acceptance.goldens]]
file = "goldens.npz"
variants = ["int8"]
agreement = 0.98

[degradation.critical]
variant = "int8"
max_batch_size = 2

[[drift]]
output = "scores"
kind = "classes"
reference = [5, 6, 7]
"""

FILES = {
    "model.onnx": b"the float model",
    "int8/model.onnx": b"the integer model",
    "goldens.npz": b"inputs and outputs",
    "warmup.npz": b"inputs",
}


class Author:
    """Writes bundles below a folder of the test's own."""

    good = GOOD
    files = FILES

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, text: str = GOOD, *, into: str = "digits", files: dict[str, bytes] = FILES) -> Path:
        folder = self.root / into
        folder.mkdir(parents=True)
        (folder / "bundle.toml").write_text(text, encoding="utf-8")
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return Author(tmp_path)


@pytest.fixture
def bundle(author: Author) -> Path:
    """A folder that holds a bundle in order, not yet packed."""
    return author.write()
