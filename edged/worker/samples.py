"""Files of a bundle as a worker reads them: hashed as they are read, unpacked within bounds. Child's end only."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged import inside
from edged.errors import Code, EdgedError
from edged.types import Datatype, TensorSpec
from edged.worker import codec
from edged.worker.messages import FileRef

# What an .npz may unpack to: a zip of a few bytes can claim terabytes.
MAX_UNPACKED_BYTES = 1024**3


def read_file(folder: Path, file: FileRef) -> bytes:
    """The file's bytes, hashed: what is checked is what is used. No link below `folder` is followed.

    Raises EdgedError: load_failed when it cannot be read, digest_mismatch when it is not what its manifest says.
    """
    try:
        with open(inside.open_regular(folder, file.path), "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            content = b""
            if size == file.size:
                content = stream.read(file.size + 1)
                size = len(content)
    except OSError as error:
        raise EdgedError(Code.LOAD_FAILED, f"{file.path} cannot be read: {error.strerror}") from error
    if size != file.size:
        raise EdgedError(
            Code.DIGEST_MISMATCH,
            f"{file.path} has {size} bytes, its manifest says {file.size}",
            "the file was changed or damaged after it was packed",
        )
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise EdgedError(
            Code.DIGEST_MISMATCH,
            f"{file.path} has the digest {found}, its manifest says {file.sha256}",
            "the file was changed or damaged after it was packed",
        )
    return content


def read_arrays(
    folder: Path, file: FileRef, wanted: Mapping[str, tuple[str, TensorSpec]], *, optional: bool = False
) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz named by the keys of `wanted`, under their tensors' names and in their numpy types.

    Raises EdgedError (load_failed) naming the file and what is wrong in it; a missing key only unless `optional`.
    """
    content = io.BytesIO(read_file(folder, file))
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(content) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_UNPACKED_BYTES:
                raise EdgedError(
                    Code.LOAD_FAILED,
                    f"{file.path} unpacks to {unpacked} bytes",
                    f"at most {MAX_UNPACKED_BYTES} are read",
                )
            held = [entry.removesuffix(".npy") for entry in archive.namelist() if entry.endswith(".npy")]
            for key, (name, spec) in wanted.items():
                if key in held:
                    with archive.open(f"{key}.npy") as entry:
                        array = np.lib.format.read_array(entry, allow_pickle=False)
                    arrays[name] = _as_datatype(file.path, array, spec)
                elif not optional:
                    raise EdgedError(Code.LOAD_FAILED, f"{file.path} holds no {key!r}", f"it holds: {', '.join(held)}")
    except EdgedError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have many ways to say that a file is damaged
        raise EdgedError(Code.LOAD_FAILED, f"{file.path} is not a readable .npz: {error}") from error
    return arrays


def _as_datatype(path: str, array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """An array of a sample in the numpy type of its tensor; arrays of text and of bytes are BYTES."""
    dtype = codec.DTYPES[spec.datatype]
    if spec.datatype is Datatype.BYTES and array.dtype.kind in "SU":
        out = np.empty(array.shape, object)
        out.reshape(-1)[:] = [
            element.encode() if isinstance(element, str) else element for element in array.reshape(-1).tolist()
        ]
        return out
    if array.dtype != dtype:
        raise EdgedError(
            Code.LOAD_FAILED, f"{path}: the array for {spec.name!r} is {array.dtype}, the tensor is {spec.datatype}"
        )
    return np.asarray(array, order="C")


def read_golden(
    folder: Path, file: FileRef, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """A golden's inputs and what it expects, by name. Raises EdgedError as `read_arrays`, or golden_mismatch."""
    arrays = read_arrays(folder, file, {f"inputs/{name}": (name, spec) for name, spec in inputs.items()})
    expected = read_arrays(
        folder, file, {f"outputs/{name}": (name, spec) for name, spec in outputs.items()}, optional=True
    )
    if not expected:
        raise EdgedError(
            Code.GOLDEN_MISMATCH,
            f"{file.path} holds no expected output",
            f"give one of {', '.join(f'outputs/{name}' for name in outputs)}",
        )
    return arrays, expected
