"""What a repository has published for tests: revisions without weights, of which each has its nature."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edged.bundle.manifest import Acceptance, File, Golden, Manifest, Shadow, Soak, Variant, encode
from edged.types import Datatype, TensorSpec


class Nature(msgspec.Struct, frozen=True):
    """What is so of a revision wherever it runs."""

    loads: bool = True
    golden: bool = True
    agrees: bool = True
    answers: bool = True
    compatible: bool = True
    min_revision: int = 1
    variants: int = 1
    shadowed: int = 0
    factory: bool = False


NATURES = {
    ("a", 1): Nature(factory=True),
    ("a", 2): Nature(),
    ("a", 3): Nature(variants=2, shadowed=3),
    ("a", 4): Nature(golden=False),
    ("a", 5): Nature(loads=False),
    ("a", 6): Nature(answers=False),
    ("a", 7): Nature(compatible=False),
    ("a", 8): Nature(min_revision=3),
    ("a", 9): Nature(agrees=False, shadowed=3),
    ("b", 1): Nature(factory=True),
    ("b", 2): Nature(shadowed=3),
    ("b", 3): Nature(),
    ("c", 1): Nature(),
    ("c", 2): Nature(shadowed=3),
}
MODELS = ("a", "b", "c")


def content(model: str, revision: int, variant: int) -> bytes:
    """A variant's file."""
    return f"{model} {revision} {variant}".encode()


def manifest(model: str, revision: int) -> Manifest:
    """As it is published."""
    nature = NATURES[model, revision]
    names = ["best.onnx", "lesser.onnx"][: nature.variants]
    contents = [content(model, revision, at) for at in range(nature.variants)]
    tensor = (TensorSpec("x" if nature.compatible else "other", Datatype.FP32, (-1,)),)
    return Manifest(
        name=model,
        revision=revision,
        min_revision=nature.min_revision,
        inputs=tensor,
        outputs=(TensorSpec("y", Datatype.FP32, (-1,)),),
        variants=tuple(Variant(name=each.removesuffix(".onnx"), runtime="onnxruntime", file=each) for each in names),
        acceptance=Acceptance(
            goldens=(Golden(file=names[0]),),
            shadow=Shadow(samples=nature.shadowed),
            soak=Soak(min_requests=10, max_s=30, max_error_rate=0.2),
        ),
        files=tuple(
            File(path=name, size=len(each), sha256=hashlib.sha256(each).hexdigest())
            for name, each in zip(names, contents, strict=True)
        ),
    )


def write(folder: Path, found: Manifest) -> None:
    """A bundle's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_bytes(encode(found))
    for at, file in enumerate(found.files):
        (folder / file.path).write_bytes(content(found.name, found.revision, at))
