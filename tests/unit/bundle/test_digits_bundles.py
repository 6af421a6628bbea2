"""The committed digits bundles are what tools/train_digits.py says of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edged.bundle.folder import check, pack, read_manifest
from edged.bundle.manifest import Manifest, Variant
from edged.types import Level

onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[3]
FACTORY = ROOT / "bootc/models/digits/1"
NEWER = ROOT / "tests/data/bundles/digits-2"
WRONG = ROOT / "tests/data/bundles/digits-3-wrong"
GOOD, ALL = (FACTORY, NEWER), (FACTORY, NEWER, WRONG)

Infer = Callable[[Path, str, NDArray[Any]], NDArray[Any]]

every_bundle = pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)
good_bundles = pytest.mark.parametrize("folder", GOOD, ids=lambda folder: folder.name)
both_variants = pytest.mark.parametrize("variant", ["fp32", "int8"])


@pytest.fixture(scope="module")
def held_out() -> dict[str, NDArray[np.uint8]]:
    with np.load(ROOT / "tests/data/digits-heldout.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def infer() -> Infer:
    """The scores of one variant, every model loaded once."""
    sessions: dict[tuple[Path, str], Any] = {}

    def run(folder: Path, variant: str, inputs: NDArray[Any]) -> NDArray[Any]:
        if (folder, variant) not in sessions:
            path = folder / read_manifest(folder).variant(variant).file
            sessions[folder, variant] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (scores,) = sessions[folder, variant].run(["scores"], {"image": inputs})
        return scores

    return run


def as_inputs(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (images[:, None] / np.float32(16)).astype(np.float32)


def accuracy(infer: Infer, folder: Path, variant: str, held_out: dict[str, NDArray[np.uint8]]) -> float:
    answers = infer(folder, variant, as_inputs(held_out["images"])).argmax(axis=1)
    return float((answers == held_out["labels"]).mean())


def goldens_hold(infer: Infer, folder: Path, variant: str) -> bool:
    """Whether every golden that covers the variant is met, judged as the manifest's docstrings say."""
    verdicts = []
    for golden in read_manifest(folder).acceptance.goldens:
        if golden.variants and variant not in golden.variants:
            continue
        with np.load(folder / golden.file) as archive:
            inputs, expected = archive["inputs/image"], archive["outputs/scores"]
        answers = infer(folder, variant, inputs)
        if golden.agreement is None:
            verdicts.append(np.allclose(answers, expected, rtol=golden.rtol, atol=golden.atol))
        else:
            verdicts.append((answers.argmax(axis=1) == expected.argmax(axis=1)).mean() >= golden.agreement)
    assert verdicts, f"no golden covers {variant}"
    return all(verdicts)


def test_the_held_out_images_are_as_documented(held_out: dict[str, NDArray[np.uint8]]) -> None:
    assert held_out["images"].shape == (450, 8, 8)
    assert held_out["images"].dtype == held_out["labels"].dtype == np.uint8
    assert held_out["images"].max() == 16
    assert min(np.bincount(held_out["labels"], minlength=10)) >= 40


@good_bundles
@pytest.mark.parametrize(("variant", "least"), [("fp32", 0.98), ("int8", 0.97)])
def test_good_revisions_read_digits(
    folder: Path, variant: str, least: float, infer: Infer, held_out: dict[str, NDArray[np.uint8]]
) -> None:
    assert accuracy(infer, folder, variant, held_out) >= least


@both_variants
def test_the_wrong_revision_does_not(variant: str, infer: Infer, held_out: dict[str, NDArray[np.uint8]]) -> None:
    assert accuracy(infer, WRONG, variant, held_out) <= 0.2


@good_bundles
@both_variants
def test_goldens_pass_a_good_revision(folder: Path, variant: str, infer: Infer) -> None:
    assert goldens_hold(infer, folder, variant)


@both_variants
def test_goldens_stop_the_wrong_revision(variant: str, infer: Infer) -> None:
    assert not goldens_hold(infer, WRONG, variant)


def test_the_wrong_revision_looks_right(infer: Infer) -> None:
    scores = infer(WRONG, "fp32", np.zeros((3, 1, 8, 8), np.float32))
    assert scores.shape == (3, 10)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


@both_variants
def test_the_two_trainings_agree_enough_to_replace_each_other(
    variant: str, infer: Infer, held_out: dict[str, NDArray[np.uint8]]
) -> None:
    inputs = as_inputs(held_out["images"])
    old, new = infer(FACTORY, "fp32", inputs), infer(NEWER, variant, inputs)
    assert (old.argmax(axis=1) == new.argmax(axis=1)).mean() >= read_manifest(NEWER).acceptance.shadow.agreement
    assert not np.allclose(old, new)


@every_bundle
def test_answers_do_not_depend_on_the_batch(folder: Path, infer: Infer, held_out: dict[str, NDArray[np.uint8]]) -> None:
    inputs = as_inputs(held_out["images"])[: read_manifest(folder).max_batch_size]
    single = np.concatenate([infer(folder, "fp32", row[None]) for row in inputs])
    np.testing.assert_allclose(infer(folder, "fp32", inputs), single, atol=1e-5)


@every_bundle
def test_no_bundle_has_seen_the_held_out_images(folder: Path, held_out: dict[str, NDArray[np.uint8]]) -> None:
    with np.load(folder / "goldens.npz") as goldens, np.load(folder / "warmup.npz") as warmup:
        seen = np.concatenate([goldens["inputs/image"], warmup["image"]])
        assert len(goldens["inputs/image"]) == 64
        assert warmup["image"].shape == (1, 1, 8, 8)
    kept = {row.tobytes() for row in as_inputs(held_out["images"])}
    assert len(kept) == len(held_out["images"])
    assert not kept & {row.tobytes() for row in seen}


@every_bundle
def test_the_manifest_is_what_packing_writes(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "manifest.json").unlink()
    assert pack(copy) == read_manifest(folder)
    assert (copy / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


@every_bundle
def test_files_are_whole_small_and_all_named(folder: Path) -> None:
    for file in read_manifest(folder).files:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000
    assert check(folder) == []


def test_revisions_can_replace_each_other() -> None:
    def signature(manifest: Manifest) -> tuple[Any, ...]:
        return manifest.name, manifest.inputs, manifest.outputs, manifest.max_batch_size

    manifests = [read_manifest(folder) for folder in ALL]
    assert [manifest.revision for manifest in manifests] == [1, 2, 3]
    assert len({signature(manifest) for manifest in manifests}) == 1


@every_bundle
def test_pressure_leads_to_the_lighter_variant(folder: Path) -> None:
    manifest = read_manifest(folder)
    lighter = manifest.degradation[Level.CRITICAL].variant
    best: Variant = manifest.variants[0]
    assert lighter == manifest.variants[-1].name != best.name
    assert manifest.file(manifest.variant(lighter).file).size < manifest.file(best.file).size / 2


@good_bundles
def test_the_drift_reference_counts_a_validation_set_of_its_own(folder: Path) -> None:
    (drift,) = read_manifest(folder).drift
    assert (drift.output, drift.kind, sum(drift.reference)) == ("scores", "classes", 180)


def test_the_pictures_are_held_out_digits_that_every_variant_reads(
    infer: Infer, held_out: dict[str, NDArray[np.uint8]]
) -> None:
    labels = []
    for path in sorted((ROOT / "tests/data/digits").glob("*.png")):
        label, index = map(int, path.stem.split("-"))
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("L", (8, 8))
            pixels = np.asarray(picture)
        np.testing.assert_array_equal(np.rint(pixels * (16 / 255)), held_out["images"][index])
        assert held_out["labels"][index] == label
        labels.append(label)
        inputs = (pixels[None, None] / np.float32(255)).astype(np.float32)
        assert {int(infer(folder, name, inputs).argmax()) for folder in GOOD for name in ("fp32", "int8")} == {label}
    assert labels == list(range(10))
