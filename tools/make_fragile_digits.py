"""Writes tests/data/bundles/digits-4-fragile: revision 2 of digits as it would come out with a table cut too short.

It passes its goldens, since none of them has so much ink, and then cannot answer 6 % of the images that it has never
seen: the table is read beyond its end, which is an error of the engine. It asks for no comparison with live requests,
which would find that out before it serves. It needs the package onnx; the bytes are the same every time.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged.bundle.folder import pack

REPO = Path(__file__).resolve().parents[1]
WHOLE = REPO / "tests/data/bundles/digits-2"
FOLDER = "tests/data/bundles/digits-4-fragile"
CHANGES = {
    "tools/train_digits.py": "tools/make_fragile_digits.py",
    "revision = 2": "revision = 4",
    "Handwritten digits, also slanted ones.": "Fragile on purpose: it errs where there is much ink.",
    "shadow = { samples = 100, agreement = 0.95 }": "shadow = { samples = 0 }",
}


def fragile(model: onnx.ModelProto, most: float) -> onnx.ModelProto:
    """The model, made to fail on a batch with an image whose mean is above `most`."""
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["whole" if name == "scores" else name for name in node.output]
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(most, np.float32), "most"),
            numpy_helper.from_array(np.ones(1, np.float32), "table"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["image"], ["ink"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("ReduceMax", ["ink"], ["worst"], keepdims=0),
            helper.make_node("Greater", ["worst", "most"], ["much"]),
            helper.make_node("Cast", ["much"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "place"], ["factor"]),
            helper.make_node("Mul", ["whole", "factor"], ["scores"]),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def write(root: Path) -> Path:
    """Writes the bundle below `root`; gives its folder."""
    folder = root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("goldens.npz", "warmup.npz"):
        shutil.copyfile(WHOLE / name, folder / name)
    with np.load(WHOLE / "goldens.npz") as goldens, np.load(WHOLE / "warmup.npz") as warmup:
        most = max(float(images.mean((1, 2, 3)).max()) for images in (goldens["inputs/image"], warmup["image"]))
    for name in ("model.onnx", "model.int8.onnx"):
        model = fragile(onnx.load(WHOLE / name), most)
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    description = (WHOLE / "bundle.toml").read_text()
    for old, new in CHANGES.items():
        assert old in description, old
        description = description.replace(old, new)
    (folder / "bundle.toml").write_text(description)
    pack(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="REPO", type=Path, default=REPO, help="write below REPO")
    print(write(parser.parse_args().out))
