"""Files of a bundle as a worker reads them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Code, EdgedError
from edged.types import Datatype, TensorSpec
from edged.worker.codec import DTYPES
from edged.worker.messages import FileRef
from edged.worker.samples import MAX_UNPACKED_BYTES, read_arrays, read_file

X = {"x": ("x", TensorSpec("x", Datatype.FP32, (-1,)))}


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def zipped(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return content.getvalue()


def refusal(folder: Any, content: bytes, wanted: Any = X) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        read_arrays(folder.path, folder.file("a.npz", content), wanted)
    assert caught.value.code is Code.LOAD_FAILED
    return caught.value


def test_a_file_is_what_its_digest_says(folder):
    content = bytes(range(256)) * 1000
    assert read_file(folder.path, folder.file("model.onnx", content)) == content


def test_a_changed_file_is_refused(folder):
    file = folder.file("model.onnx", b"a model")
    (folder.path / "model.onnx").write_bytes(b"A model")
    with pytest.raises(EdgedError) as caught:
        read_file(folder.path, file)
    assert caught.value.code is Code.DIGEST_MISMATCH
    found = hashlib.sha256(b"A model").hexdigest()
    assert caught.value.message == f"model.onnx has the digest {found}, its manifest says {file.sha256}"


@pytest.mark.parametrize("size", [0, 6, 8, 2**40])
def test_a_file_of_another_size_is_refused_unread(folder, size):
    """Also where it does not fit into any memory."""
    file = folder.file("model.onnx", b"a model")
    os.truncate(folder.path / "model.onnx", size)
    with pytest.raises(EdgedError) as caught:
        read_file(folder.path, file)
    assert caught.value.code is Code.DIGEST_MISMATCH
    assert caught.value.message == f"model.onnx has {size} bytes, its manifest says 7"


def test_a_file_that_grows_as_it_is_read_is_refused():
    """The kernel says that its files have no bytes, and then gives some: one of them is read."""
    with pytest.raises(EdgedError) as caught:
        read_file(Path("/proc"), FileRef("version", 0, hashlib.sha256(b"").hexdigest()))
    assert caught.value.code is Code.DIGEST_MISMATCH
    assert caught.value.message == "version has 1 bytes, its manifest says 0"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("link", "it is a link"),
        ("sub/link", "it is a link"),
        ("links/file", "links is a link"),
        ("sub/links/file", "links is a link"),
        ("pipe", "it is a named pipe (FIFO)"),
        ("file/file", "file is a file"),
        ("sub/../file", "it is no name of a file"),
    ],
)
def test_no_way_leads_out_of_the_folder(folder, tmp_path_factory, path, why):
    """Not even to a file that is what the manifest says."""
    outside = tmp_path_factory.mktemp("outside")
    content = b"a model"
    file = FileRef(path, len(content), hashlib.sha256(content).hexdigest())
    for place in (outside, folder.path):
        (place / "file").write_bytes(content)
    (folder.path / "sub").mkdir()
    for place in (folder.path, folder.path / "sub"):
        (place / "link").symlink_to(outside / "file")
        (place / "links").symlink_to(outside)
    os.mkfifo(folder.path / "pipe")
    with pytest.raises(EdgedError) as caught:
        read_file(folder.path, file)
    assert (caught.value.code, caught.value.message) == (Code.LOAD_FAILED, f"{path} cannot be read: {why}")


def test_the_folder_itself_may_be_a_link(folder, tmp_path_factory):
    """To the release that serves, say."""
    file = folder.file("model.onnx", b"a model")
    current = tmp_path_factory.mktemp("store") / "current"
    current.symlink_to(folder.path)
    assert read_file(current, file) == b"a model"


@pytest.mark.parametrize(
    ("path", "why"),
    [("gone.onnx", "No such file or directory"), ("sub", "Is a directory"), ("sub/gone", "No such file or directory")],
)
def test_a_file_that_cannot_be_read_is_named(folder, path, why):
    (folder.path / "sub").mkdir()
    with pytest.raises(EdgedError) as caught:
        read_file(folder.path, FileRef(path, 0, ""))
    assert (caught.value.code, caught.value.message) == (Code.LOAD_FAILED, f"{path} cannot be read: {why}")


def test_the_digest_of_samples_is_checked_too(folder):
    file = folder.file("a.npz", npz(x=np.zeros(2, np.float32)))
    (folder.path / "a.npz").write_bytes(npz(x=np.ones(2, np.float32)))
    with pytest.raises(EdgedError) as caught:
        read_arrays(folder.path, file, X)
    assert caught.value.code is Code.DIGEST_MISMATCH


@pytest.mark.parametrize("datatype", [datatype for datatype in Datatype if datatype is not Datatype.BYTES])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), ()])
def test_an_array_is_read_as_it_was_written(folder, datatype, shape):
    array = np.arange(6).astype(DTYPES[datatype])[: int(np.prod(shape))].reshape(shape)
    spec = TensorSpec("x", datatype, shape)
    found = read_arrays(folder.path, folder.npz("a.npz", {"x": array}), {"x": ("x", spec)})["x"]
    assert (found.dtype, found.shape, found.tobytes()) == (DTYPES[datatype], shape, array.tobytes())


def test_keys_are_not_names(folder):
    file = folder.npz("a.npz", {"inputs/x": np.float32([1]), "outputs/x": np.float32([2]), "other": [b"ignored"]})
    found = read_arrays(folder.path, file, {"outputs/x": X["x"]})
    assert {name: array.tolist() for name, array in found.items()} == {"x": [2.0]}


def test_arrays_are_in_the_order_that_engines_take(folder):
    columns = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    found = read_arrays(folder.path, folder.npz("a.npz", {"x": columns}), X)["x"]
    assert found.flags.c_contiguous
    assert found.tolist() == columns.tolist()


def test_a_missing_key_is_named_with_those_there_are(folder):
    error = refusal(folder, npz(y=[1], z=[2]))
    assert (error.message, error.hint) == ("a.npz holds no 'x'", "it holds: y, z")


def test_a_missing_key_may_be_optional(folder):
    assert read_arrays(folder.path, folder.npz("a.npz", {"y": [1]}), X, optional=True) == {}


@pytest.mark.parametrize(
    ("array", "datatype", "came"),
    [
        (np.zeros(2), "FP32", "float64"),
        (np.zeros(2, ">f4"), "FP32", ">f4"),
        (np.zeros(2, np.int32), "INT64", "int32"),
        (np.zeros(2, np.float32), "BYTES", "float32"),
        (np.zeros(2, np.float32), "BF16", "float32"),
        (np.array(["a"]), "FP32", "<U1"),
        (np.zeros(2, "M8[s]"), "INT64", "datetime64[s]"),
        (np.zeros(2, [("a", "<f4")]), "FP32", "[('a', '<f4')]"),
    ],
)
def test_an_array_of_another_type_is_refused(folder, array, datatype, came):
    spec = TensorSpec("x", Datatype(datatype), (-1,))
    error = refusal(folder, npz(x=array), {"x": ("x", spec)})
    assert error.message == f"a.npz: the array for 'x' is {came}, the tensor is {datatype}"


@pytest.mark.parametrize(
    ("array", "elements"),
    [
        (np.array(["a", "", "grün"]), [b"a", b"", "grün".encode()]),
        (np.array([b"a", b"", b"\xff\x00\xfe"]), [b"a", b"", b"\xff\x00\xfe"]),
        (np.array([["a", "b"], ["c", "d"]]), [[b"a", b"b"], [b"c", b"d"]]),
        (np.array([["a", "b"], ["c", "d"]]).T, [[b"a", b"c"], [b"b", b"d"]]),
        (np.array("scalar"), b"scalar"),
        (np.empty((0, 2), "U3"), []),
    ],
)
def test_text_is_bytes(folder, array, elements):
    spec = TensorSpec("x", Datatype.BYTES, (-1,))
    found = read_arrays(folder.path, folder.file("a.npz", npz(x=array)), {"x": ("x", spec)})["x"]
    assert (found.dtype, found.shape, found.tolist()) == (object, array.shape, elements)


def test_text_that_is_no_unicode_is_refused(folder):
    spec = TensorSpec("x", Datatype.BYTES, (-1,))
    assert "surrogates not allowed" in refusal(folder, npz(x=np.array(["\ud800"])), {"x": ("x", spec)}).message


class _Touches:
    """What would run code while it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_pickled_objects_are_not_read(folder, datatype):
    trap = np.empty(1, object)
    trap[0] = _Touches(str(folder.path / "touched"))
    spec = TensorSpec("x", Datatype(datatype), (-1,))
    error = refusal(folder, zipped(x=npy(trap, allow_pickle=True)), {"x": ("x", spec)})
    assert "allow_pickle=False" in error.message
    assert not (folder.path / "touched").exists()


ARRAY = npy(np.zeros(4, np.float32))
HEADER = b"\x93NUMPY\1\0"


def _header(text: str) -> bytes:
    return HEADER + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"an image, perhaps",
        ARRAY,
        pickle.dumps([1, 2]),
        zipped(x=ARRAY)[:-30],
        zipped(x=b""),
        zipped(x=b"not an array"),
        zipped(x=pickle.dumps([1, 2])),
        zipped(x=ARRAY[:-1]),
        zipped(x=ARRAY[:20]),
        zipped(x=_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,)}")),
        zipped(x=_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}")),
        zipped(x=_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**99,)}")),
        zipped(x=_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},)}}")),
        zipped(x=_header("{'descr': '<f4', 'fortran_order': False, 'shape': (")),
        zipped(x=_header("{'descr': 'no type', 'fortran_order': False, 'shape': ()}")),
        zipped(x=_header("(" * 9000)),
    ],
)
def test_what_is_no_npz_is_refused(folder, content):
    assert refusal(folder, content).message.startswith("a.npz is not a readable .npz: ")


def test_a_member_that_is_no_array_is_not_seen(folder):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x", b"raw bytes under the very name")
    assert refusal(folder, content.getvalue()).message == "a.npz holds no 'x'"


@given(data=st.data())
def test_a_damaged_npz_is_read_or_refused(tmp_path_factory, data):
    """Whatever zipfile, zlib and numpy make of it."""
    whole = npz(x=np.arange(8, dtype=np.float32), y=np.arange(3))
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))]
    folder = tmp_path_factory.getbasetemp()
    (folder / "damaged.npz").write_bytes(content)
    file = FileRef("damaged.npz", len(content), hashlib.sha256(content).hexdigest())
    found: object
    try:
        found = read_arrays(folder, file, X)["x"].dtype
    except EdgedError as error:
        found = error.code
    assert found in (np.float32, Code.LOAD_FAILED)


def _claiming(content: bytes, size: int) -> bytes:
    """The same archive, whose directory says that each member unpacks to `size` bytes."""
    changed = bytearray(content)
    at = -1
    while (at := changed.find(b"PK\1\2", at + 1)) >= 0:
        changed[at + 24 : at + 28] = struct.pack("<I", size)
    return bytes(changed)


def test_a_bomb_is_not_unpacked(folder):
    """Its members together count; nothing of it is read."""
    each = MAX_UNPACKED_BYTES // 2 + 1
    error = refusal(folder, _claiming(npz(x=np.zeros(2, np.float32), y=[1]), each))
    assert error.message == f"a.npz unpacks to {2 * each} bytes"
    assert error.hint == f"at most {MAX_UNPACKED_BYTES} are read"


def test_a_member_that_claims_less_than_it_unpacks_to_is_cut_off(folder):
    error = refusal(folder, _claiming(npz(x=np.zeros(2**20, np.float32)), 1000))
    assert error.message.startswith("a.npz is not a readable .npz: ")
