"""Trains the digits models and writes their bundles: the factory one, a newer one and a wrong one.

A small convolutional network learns the 1797 handwritten digits that scikit-learn ships (8 by 8 pixels, values 0 to
16; Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, CC BY 4.0), split once and for all into a training
part, a validation part (goldens, drift reference) and a held-out part that no bundle sees. Written, below `--out`:

    bootc/models/digits/1/               the factory bundle of the image
    tests/data/bundles/digits-2/         another training, of images bent further, the same signature
    tests/data/bundles/digits-3-wrong/   right shapes, wrong answers, honest goldens
    tests/data/digits-heldout.npz        the held-out part: `images` uint8 [N,8,8], `labels` uint8 [N]
    tests/data/digits/LABEL-INDEX.png    one held-out image of each digit, INDEX being its row in that file

Every bundle has two variants: `fp32`, and `int8`, the same network quantised for when the device is pressed. It takes
half a minute and needs edged with the extra `onnxruntime` and the `train` dependency group of pyproject.toml:
`pip install -e '.[onnxruntime]' --group train`, then `python tools/train_digits.py [--out REPO] [--check]`.

Seeds are fixed, and the bytes are the same every time on one kind of processor with the same versions; elsewhere sums
round differently, and the weights with them. The committed files came from Python 3.11.7, torch 2.13.0 (CPU),
scikit-learn 1.9.1, onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6 and pillow 13.0.0 on x86-64 with AVX-512.
"""

from __future__ import annotations

import argparse
import io
import logging
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from edged.bundle.folder import pack

Floats = NDArray[np.float32]

HELD_OUT, VALIDATION, GOLDENS = 450, 180, 64  # images
EPOCHS, BATCH, LEARNING_RATE = 60, 64, 4e-3
LEAST_ACCURACY = {"fp32": 0.98, "int8": 0.97}
RIGHT_ORDER = tuple(range(10))
# As if a class were lost on export: 1 is answered as 2, 2 as 3, ..., 9 as 1. Only zeros stay right.
WRONG_ORDER = (0, 9, 1, 2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Recipe:
    """One bundle: where it goes and how its network is trained, `bend` telling how far the images are bent."""

    folder: str
    revision: int
    description: str
    bend: float
    order: tuple[int, ...] = RIGHT_ORDER


RECIPES = (
    Recipe("bootc/models/digits/1", 1, "Handwritten digits.", 0.5),
    Recipe("tests/data/bundles/digits-2", 2, "Handwritten digits, also slanted ones.", 1),
    Recipe("tests/data/bundles/digits-3-wrong", 3, "Wrong on purpose: it fails its goldens.", 1, WRONG_ORDER),
)

BUNDLE = """\
# Written by tools/train_digits.py, as is everything beside it.
name = "digits"
revision = {recipe.revision}
description = "{recipe.description} Trained on Optical Recognition of Handwritten Digits (Alpaydin, Kaynak; CC BY 4.0)."
license = "Apache-2.0"
max_batch_size = 32
inputs = [{{ name = "image", datatype = "FP32", shape = [-1, 1, 8, 8] }}] # 0 is paper, 1 is ink
outputs = [{{ name = "scores", datatype = "FP32", shape = [-1, 10], labels = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9",
] }}]
warmup = [{{ file = "warmup.npz", count = 3 }}]
variants = [
    {{ name = "fp32", runtime = "onnxruntime", file = "model.onnx", requires.runtime = ">=1.20" }},
    {{ name = "int8", runtime = "onnxruntime", file = "model.int8.onnx", requires.runtime = ">=1.20" }},
]
drift = [{{ output = "scores", kind = "classes", reference = {classes} }}]

[acceptance]
goldens = [
    {{ file = "goldens.npz", variants = ["fp32"], atol = 1e-4 }},
    {{ file = "goldens.npz", variants = ["int8"], agreement = 0.95 }},
]
budgets = {{ p99_ms = 50, load_s = 5, memory_mib = 256 }}
shadow = {{ samples = 100, agreement = 0.95 }}
soak = {{ min_requests = 200, max_s = 900, max_error_rate = 0.01 }}

[degradation]
elevated = {{ max_batch_size = 8 }}
critical = {{ max_batch_size = 8, variant = "int8" }}
"""


@dataclass(frozen=True)
class Part:
    """Some of the images, uint8 [N,8,8], and their labels, uint8 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def inputs(self) -> Floats:
        """What the models take: [N,1,8,8], values 0 to 1."""
        return (self.images[:, None] / np.float32(16)).astype(np.float32)


def split() -> tuple[Part, ...]:
    """The training, validation and held-out parts: always the same, stratified, no image in two of them."""
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    rest, held_out = train_test_split(np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=0)
    training, validation = train_test_split(rest, test_size=VALIDATION, stratify=labels[rest], random_state=0)
    if len({image.tobytes() for image in images}) != len(images):
        raise SystemExit("an image stands twice in the data set, perhaps in two parts")
    return tuple(Part(images[rows], labels[rows]) for rows in (training, validation, held_out))


def train(recipe: Recipe, part: Part) -> nn.Sequential:
    """A network fitted to `part`, every batch bent anew. The revision is the seed."""
    torch.manual_seed(recipe.revision)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )
    inputs, labels = torch.from_numpy(part.inputs), torch.from_numpy(part.labels.astype(np.int64))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    batches = [rows for _ in range(EPOCHS) for rows in torch.randperm(len(inputs)).split(BATCH)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=len(batches))
    for rows in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(bent(inputs[rows], recipe.bend)), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return network


def bent(inputs: torch.Tensor, by: float) -> torch.Tensor:
    """The images with noise, turned, scaled, sheared and shifted at random; by 1: turned at most 10° either way."""
    spans = by * torch.tensor([0.35, 0.25, 0.2, 0.4, 0.4])
    turn, scale, shear, right, down = ((torch.rand(len(inputs), 5) - 0.5) * spans).T
    cos, sin = turn.cos() * (1 + scale), turn.sin() * (1 + scale)
    matrices = torch.stack([cos, shear - sin, right, sin, cos, down], 1).reshape(-1, 2, 3)
    places = nn.functional.affine_grid(matrices, list(inputs.shape), align_corners=False)
    return nn.functional.grid_sample(inputs, places, align_corners=False) + 0.05 * torch.randn(inputs.shape)


def export(network: nn.Sequential, order: tuple[int, ...]) -> onnx.ModelProto:
    """The network and a softmax as ONNX; `order` tells which class of the network each score is taken from."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(operator: str, layer: nn.Conv2d | nn.Linear | None = None, **attributes: Any) -> None:
        inputs = [nodes[-1].output[0] if nodes else "image"]
        if layer is not None:
            rows = list(order) if isinstance(layer, nn.Linear) else slice(None)
            for name, tensor in (("weight", layer.weight), ("bias", layer.bias)):
                inputs.append(f"{name}{len(nodes)}")
                weights.append(numpy_helper.from_array(tensor.detach().numpy()[rows], inputs[-1]))
        output = "scores" if operator == "Softmax" else f"{operator.lower()}{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))

    for layer in network:
        if isinstance(layer, nn.Conv2d):
            add("Conv", layer, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif isinstance(layer, nn.ReLU):
            add("Relu")
        elif isinstance(layer, nn.MaxPool2d):
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    add("Flatten", axis=1)
    add("Gemm", network[-1], transB=1)
    add("Softmax", axis=1)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "digits", [image], [scores], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


class Calibration(CalibrationDataReader):
    """Batches from which the quantiser learns the range of each tensor."""

    def __init__(self, inputs: Floats) -> None:
        self._batches = iter(np.array_split(inputs, len(inputs) // BATCH))

    def get_next(self) -> dict[str, Floats] | None:
        return {"image": batch} if (batch := next(self._batches, None)) is not None else None


def quantise(network: nn.Sequential, order: tuple[int, ...], part: Part) -> onnx.ModelProto:
    """The network in 8-bit integers, ranges measured on `part`.

    Weights keep 7 bits: x86 without VNNI adds pairs of products in 16 bits, which 8-bit weights can overflow. The
    scores stay in floating point.
    """
    floating = {"nodes_to_exclude": ["scores"], "extra_options": {"OpTypesToExcludeOutputQuantization": ["Gemm"]}}
    batches = Calibration(part.inputs)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        quantize_static(export(network, order), target, batches, per_channel=True, reduce_range=True, **floating)
        model = onnx.load(target)
    model.producer_name = model.producer_version = ""
    model.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    return model


def infer(model: onnx.ModelProto, inputs: Floats) -> Floats:
    """What onnxruntime answers: [N,10]."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["scores"], {"image": inputs})[0])


def write_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """An .npz as numpy reads it, its bytes the same every time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def write_bundle(recipe: Recipe, folder: Path, training: Part, validation: Part, held_out: Part) -> None:
    """Trains and writes one bundle and prints what became of it. Raises SystemExit when a model is not good enough."""
    network = train(recipe, training)
    models = {"fp32": export(network, recipe.order), "int8": quantise(network, recipe.order, training)}
    for name, model in models.items():
        content = model.SerializeToString(deterministic=True)
        (folder / ("model.onnx" if name == "fp32" else f"model.{name}.onnx")).write_bytes(content)
        accuracy = float((infer(model, held_out.inputs).argmax(1) == held_out.labels).mean())
        print(f"revision {recipe.revision}  {name}  accuracy {100 * accuracy:5.1f} %  {len(content):7,} bytes")
        if recipe.order == RIGHT_ORDER and accuracy < LEAST_ACCURACY[name]:
            raise SystemExit(f"revision {recipe.revision}, {name}: not good enough")
    expected = infer(export(network, RIGHT_ORDER), validation.inputs)
    goldens = {"inputs/image": validation.inputs[:GOLDENS], "outputs/scores": expected[:GOLDENS]}
    write_npz(folder / "goldens.npz", goldens)
    write_npz(folder / "warmup.npz", {"image": training.inputs[:1]})
    classes = np.bincount(expected.argmax(1), minlength=10).tolist()
    (folder / "bundle.toml").write_text(BUNDLE.format(recipe=recipe, classes=classes), encoding="utf-8")
    pack(folder)


def write(root: Path) -> None:
    """Writes everything, in place of what was there."""
    training, validation, held_out = split()
    pictures = root / "tests/data/digits"
    for folder in (pictures, *(root / recipe.folder for recipe in RECIPES)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    write_npz(root / "tests/data/digits-heldout.npz", vars(held_out))
    for digit, index in enumerate(np.unique(held_out.labels, return_index=True)[1]):
        grey = np.rint(held_out.images[index] * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(pictures / f"{digit}-{index}.png")
    for recipe in RECIPES:
        write_bundle(recipe, root / recipe.folder, training, validation, held_out)


def main() -> int:
    """The command line. Returns 1 when `--check` finds differences."""
    parser = argparse.ArgumentParser(description="Trains the digits models and writes their bundles.")
    parser.add_argument("--out", metavar="REPO", type=Path, default=Path(__file__).parents[1], help="write below REPO")
    parser.add_argument("--check", action="store_true", help="write nothing; name the files that would change")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser asks for a preparation that these models do not need
    if not options.check:
        write(options.out)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write(fresh := Path(folder))
        files = {path.relative_to(fresh): path.read_bytes() for path in sorted(fresh.rglob("*")) if path.is_file()}
    kept = {file: (options.out / file).read_bytes() for file in files if (options.out / file).is_file()}
    changed = [str(file) for file, content in files.items() if kept.get(file) != content]
    print("\n".join(f"differs: {file}" for file in changed) or "nothing differs")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
