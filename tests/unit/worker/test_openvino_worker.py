"""Workers of OpenVINO, beside those of ONNX Runtime on the same models."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from support import descriptors
from support.bundles import ONNX_TYPES
from support.loads import CAPS, changed, worker

from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES
from edged.types import Datatype
from edged.worker import process
from edged.worker.codec import DTYPES
from edged.worker.messages import Build, Derived, Failed, FileRef, Load

pytestmark = pytest.mark.skipif(ENGINES["openvino"].version() is None, reason="openvino is not installed")

SERVED = [datatype for datatype in Datatype if datatype is not Datatype.BYTES]


def identity(datatype: str) -> tuple[list[object], list[tuple[str, str, list[int]]], list[tuple[str, str, list[int]]]]:
    return [helper.make_node("Identity", ["x"], ["y"])], [("x", datatype, [-1, -1])], [("y", datatype, [-1, -1])]


def by_openvino(load: Load) -> Load:
    return changed(load, runtime="openvino")


def test_every_datatype_is_tried_here():
    assert set(ONNX_TYPES) == {*SERVED, "BYTES"}


@pytest.mark.parametrize("datatype", SERVED)
async def test_what_it_gets_it_gives(folder, batch_of: Callable, datatype: Datatype):
    load = by_openvino(folder.load(*identity(datatype)))
    numbers = np.arange(6).reshape(3, 2)
    sent = (numbers % 2 == 1) if datatype is Datatype.BOOL else numbers.astype(DTYPES[datatype])
    async with worker(load) as started:
        (answer,) = await batch_of(load, [{"x": sent}]).by(started)
    assert np.array_equal(answer["y"], sent)


async def test_members_of_a_batch_get_what_they_would_alone(folder, batch_of: Callable):
    load = by_openvino(folder.load(*identity("FP32")))
    members = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 3, 2)]
    async with worker(load) as started:
        answers = await batch_of(load, members).by(started)
        again = await batch_of(load, members[:1]).by(started)
    assert [answer["y"].tolist() for answer in answers] == [member["x"].tolist() for member in members]
    assert again[0]["y"].tolist() == members[0]["x"].tolist(), "an answer does not change with the next one"


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**62])
async def test_numbers_that_it_would_cut_to_32_bits_are_refused(folder, batch_of: Callable, value: int):
    load = by_openvino(folder.load(*identity("INT64")))
    async with worker(load) as started:
        (answer,) = await batch_of(load, [{"x": np.array([[value]], np.int64)}]).by(started)
    assert isinstance(answer, Failed)
    assert answer.code == Code.INVALID_TENSOR
    assert "'x' has an element that takes more than 32 bits" in answer.message


async def test_a_model_with_strings_is_not_loaded(folder):
    with pytest.raises(EdgedError, match="string") as caught:
        await process.start(by_openvino(folder.load(*identity("BYTES"))), CAPS)
    assert caught.value.code is Code.LOAD_FAILED


async def test_what_is_no_model_is_told_in_the_engines_words(folder):
    load = by_openvino(folder.load(*identity("FP32")))
    with pytest.raises(EdgedError, match="openvino does not load it") as caught:
        await process.start(changed(load, file=folder.file("model.onnx", b"")), CAPS)
    assert caught.value.code is Code.LOAD_FAILED


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
async def test_a_worker_of_these_engines_has_no_connection_but_its_link(folder, batch_of: Callable, engine: str):
    load = changed(folder.load(*identity("FP32")), runtime=engine)
    async with worker(load) as started:
        await batch_of(load, [{"x": np.ones((1, 1), np.float32)}]).by(started)
        sockets = descriptors.count("socket:", started.pid)
    assert sockets == 2, "the link, and the socket by which it gets regions"


def asked_to_build(load: Load, output: Path, most_bytes: int = 2**20, **changes: object) -> Build:
    output.touch()
    made = Build(load.source, str(output), most_bytes)
    return changed(made, **changes)


async def built(build: Build) -> FileRef:
    """Has a worker build, and end."""
    builder = await process.start(build, CAPS)
    await builder.stop(5)
    content = Path(build.output).read_bytes()  # noqa: ASYNC240 - some bytes
    return FileRef(Path(build.output).name, len(content), sha256(content).hexdigest())


async def test_what_it_built_answers_as_the_model_does(folder, batch_of: Callable, tmp_path: Path):
    load = by_openvino(folder.load(*identity("FP32")))
    file = await built(asked_to_build(load, tmp_path / "built"))
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    async with worker(changed(load, derived=Derived(str(tmp_path), file), threads=2)) as started:
        (answer,) = await batch_of(load, [{"x": sent}]).by(started)
    assert np.array_equal(answer["y"], sent)


@pytest.mark.parametrize(
    ("changes", "code", "found"),
    [
        ({"most_bytes": 100}, Code.STORAGE_FULL, "at most 100 bytes may be"),
        ({"device": "NO_SUCH"}, Code.LOAD_FAILED, "openvino does not load it"),
        ({"precision": "int8"}, Code.LOAD_FAILED, "cannot be told to compute in int8"),
        ({"runtime": "onnxruntime"}, Code.INCOMPATIBLE_RUNTIME, "builds nothing from it"),
        ({"file": FileRef("model.onnx", 1, "0" * 64)}, Code.DIGEST_MISMATCH, "its manifest says 1"),
    ],
)
async def test_what_cannot_be_built_is_told(folder, tmp_path: Path, changes: dict[str, object], code: Code, found: str):
    load = by_openvino(folder.load(*identity("FP32")))
    with pytest.raises(EdgedError, match=found) as caught:
        await built(asked_to_build(load, tmp_path / "built", **changes))
    assert caught.value.code is code


@pytest.mark.parametrize("spoil", ["cut", "changed", "foreign", "missing"])
async def test_what_was_spoiled_is_not_run(folder, tmp_path: Path, spoil: str):
    load = by_openvino(folder.load(*identity("FP32")))
    file = await built(asked_to_build(load, tmp_path / "built"))
    content = (tmp_path / "built").read_bytes()
    if spoil == "cut":
        (tmp_path / "built").write_bytes(content[:-1])
    elif spoil == "changed":
        (tmp_path / "built").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif spoil == "foreign":
        (tmp_path / "built").write_bytes(b"nothing of openvino")
        file = FileRef("built", 19, sha256(b"nothing of openvino").hexdigest())
    else:
        file = FileRef("elsewhere", file.size, file.sha256)
    with pytest.raises(EdgedError, match=f"what was built of {load.source.file.path} cannot be used") as caught:
        await process.start(changed(load, derived=Derived(str(tmp_path), file)), CAPS)
    assert caught.value.code is Code.DERIVED_UNUSABLE
