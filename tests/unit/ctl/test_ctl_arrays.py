"""Files of arrays as inputs."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from edged.ctl import arrays, samples
from edged.ctl.faults import WrongInputError
from edged.ctl.samples import Sample
from edged.types import Datatype, TensorSpec

X = TensorSpec("x", Datatype.FP32, (-1, 3))
Y = TensorSpec("y", Datatype.INT32, (2,))


def npz(*unnamed: Any, **named: Any) -> Sample:
    file = io.BytesIO()
    np.savez(file, *unnamed, **named)
    return Sample("in.npz", ".npz", file.getvalue())


def refusal(sample: Sample, *specs: TensorSpec) -> str:
    with pytest.raises(WrongInputError) as caught:
        arrays.inputs(sample, specs, [])
    return str(caught.value)


def test_arrays_go_by_their_names():
    notes: list[str] = []
    given = npz(y=np.array([1, 2], np.int32), x=np.ones((2, 3), np.float32))
    found = arrays.inputs(given, [X, Y], notes)
    assert list(found) == ["x", "y"]
    assert found["x"].shape == (2, 3)
    assert notes == []


def test_a_single_array_needs_no_name():
    found = arrays.inputs(npz(np.ones((2, 3), np.float32)), [X], [])
    assert found["x"].shape == (2, 3)
    assert "holds 'arr_0', which is no input; the model's inputs are: x, y" in refusal(npz(np.ones(3)), X, Y)


def test_a_missing_batch_axis_is_added():
    assert arrays.inputs(npz(np.ones(3, np.float32)), [X], [])["x"].shape == (1, 3)
    assert arrays.inputs(npz(np.ones(2, np.int32)), [Y], [])["y"].shape == (2,)
    assert "shape [1, 1, 3]; the model takes [-1, 3] (-1 is free)" in refusal(npz(np.ones((1, 1, 3), np.float32)), X)
    assert "shape []; the model takes [2]" in refusal(npz(np.int32(3)), Y)
    assert "shape [4]; the model takes [-1, 3]" in refusal(npz(np.ones(4, np.float32)), X)


def test_names_that_do_not_fit_are_told_with_those_that_do():
    assert "in.npz holds 'z', which is no input; the model's inputs are: x" in refusal(npz(z=np.ones(3)), X)
    said = refusal(npz(x=np.ones(3, np.float32)), X, Y)
    assert said == "in.npz holds no 'y'; the model's inputs are: x, y; it holds: x"


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8])
def test_a_cast_that_changes_no_value_is_made_with_a_note(dtype: type):
    notes: list[str] = []
    found = arrays.inputs(npz(x=np.array([1, 2, 3], dtype)), [X], notes)["x"]
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2, 3]]
    name = np.dtype(dtype).name
    assert notes == [f"in.npz: the array for 'x' is {name}; it was sent as FP32, which changes no value"]


@pytest.mark.parametrize(
    ("values", "spec"),
    [
        (np.array([0.1, 0.2, 0.3]), X),
        (np.array([2**24 + 1] * 3), X),
        (np.array([1, 2**40]), Y),
        (np.array([-1, 2]), TensorSpec("y", Datatype.UINT8, (2,))),
        (np.array([1.5, 2]), Y),
        (np.array([np.nan, 2]), Y),
    ],
)
def test_a_cast_that_would_change_values_is_refused(values: Any, spec: TensorSpec):
    said = refusal(npz(values), spec)
    assert f"is {values.dtype}, the model takes {spec.datatype}, and the values would change" in said
    assert said.endswith(f"save it as numpy.{'float32' if spec is X else spec.datatype.lower()}")


def test_nan_stays_nan():
    found = arrays.inputs(npz(np.array([np.nan, np.inf, 1])), [X], [])["x"]
    assert np.isnan(found[0, 0])
    assert found[0, 1] == np.inf


@pytest.mark.parametrize("values", [np.array([True, False, True]), np.array(["a", "b", "c"]), np.array([1j, 2, 3])])
def test_what_is_no_number_is_refused_for_numbers(values: Any):
    assert f"is {values.dtype}, the model takes FP32; save it as numpy.float32" in refusal(npz(values), X)


def test_numbers_are_no_bools():
    flags = TensorSpec("f", Datatype.BOOL, (-1,))
    assert "save it as numpy.bool" in refusal(npz(np.array([0, 1])), flags)
    assert arrays.inputs(npz(np.array([False, True])), [flags], [])["f"].tolist() == [False, True]


def test_strings_are_bytes():
    words = TensorSpec("w", Datatype.BYTES, (-1,))
    assert arrays.inputs(npz(np.array(["é", ""])), [words], [])["w"].tolist() == ["é".encode(), b""]
    assert arrays.inputs(npz(np.array([b"\xff"])), [words], [])["w"].tolist() == [b"\xff"]
    assert "give an array of strings" in refusal(npz(np.array([1])), words)


def test_bf16_is_given_as_its_bits():
    bits = TensorSpec("b", Datatype.BF16, (-1,))
    assert arrays.inputs(npz(np.array([0x3F80], np.uint16)), [bits], [])["b"].tolist() == [0x3F80]


def test_what_is_no_npz_is_refused():
    whole = npz(x=np.ones((100, 3), np.float32)).content
    objects = io.BytesIO()
    np.savez(objects, x=np.array([{}], object))
    for content in (b"", b"PK\x03\x04", whole[:-30], whole.replace(b"\x93NUMPY", b"\x93NUMPX"), objects.getvalue()):
        said = refusal(Sample("in.npz", ".npz", content), X)
        assert said.startswith("in.npz is no ")
        assert "numpy.savez" in said


def test_a_zip_that_claims_to_be_huge_is_not_unpacked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arrays, "MAX_BYTES", 1000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(100_000))
    assert "in.npz unpacks to 97.7 KiB" in refusal(Sample("in.npz", ".npz", file.getvalue()), X)


def test_files_are_read_within_bounds(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    big = tmp_path / "big.NPZ"
    big.write_bytes(bytes(1001))
    assert samples.read(str(big)).suffix == ".npz"
    monkeypatch.setattr(samples, "MAX_BYTES", 1000)
    with pytest.raises(WrongInputError, match="has 1001 bytes; edgectl takes at most 1000 bytes"):
        samples.read(str(big))


def test_what_is_no_file_is_refused(tmp_path: Any):
    (tmp_path / "folder.npz").mkdir()
    for name, said in {
        "nothing.png": "nothing.png cannot be read: No such file or directory",
        "folder.npz": "folder.npz is no regular file",
        "photo.gif": "is of no kind that can be sent; give one of .png, .jpg, .jpeg, .npz, .json, or - for JSON",
        "photo": "photo is of no kind that can be sent",
    }.items():
        with pytest.raises(WrongInputError) as caught:
            samples.read(str(tmp_path / name))
        assert said in str(caught.value)


def test_standard_input_is_json_within_bounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[1]" + b" " * 1000)))
    monkeypatch.setattr(samples, "MAX_BYTES", 1000)
    with pytest.raises(WrongInputError, match="standard input has 1001 bytes"):
        samples.read("-")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[1]")))
    assert samples.read("-") == Sample("standard input", ".json", b"[1]")
