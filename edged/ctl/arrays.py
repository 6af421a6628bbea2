"""Arrays that a person gives, held against what a model takes; and `.npz` files of them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.ctl.faults import WrongInputError
from edged.ctl.samples import MAX_BYTES, Sample
from edged.ctl.words import listed, size
from edged.types import Datatype, TensorSpec
from edged.worker.codec import DTYPES

# What numpy.savez calls an array that it is given without a name.
_UNNAMED = "arr_0"


def inputs(sample: Sample, specs: Sequence[TensorSpec], notes: list[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by input name; a single one without a name is for a model's only input.

    Raises WrongInputError.
    """
    found = _read(sample)
    if len(specs) == 1 and list(found) == [_UNNAMED]:
        found = {specs[0].name: found[_UNNAMED]}
    check_names(sample.name, found, specs)
    return {
        spec.name: fit_shape(sample.name, spec, _cast(sample.name, spec, found[spec.name], notes)) for spec in specs
    }


def _read(sample: Sample) -> dict[str, NDArray[Any]]:
    """Every array of the file, unpacked within bounds: a zip of a few bytes can claim terabytes."""
    hint = "write it with numpy.savez, of arrays of numbers or strings"
    try:
        with zipfile.ZipFile(io.BytesIO(sample.content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_BYTES:
            raise WrongInputError(
                f"{sample.name} unpacks to {size(unpacked)}", f"edgectl takes at most {size(MAX_BYTES)}"
            )
        with np.load(io.BytesIO(sample.content), allow_pickle=False) as loaded:
            return {name: np.asarray(loaded[name]) for name in loaded}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, MemoryError) as error:
        raise WrongInputError(f"{sample.name} is no .npz that can be read: {error}", hint) from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise WrongInputError(f"{sample.name} is no whole .npz: {error}", hint) from error


def check_names(name: str, found: Iterable[str], specs: Sequence[TensorSpec]) -> None:
    """Raises WrongInputError when what is there is not exactly what the model takes."""
    came, wanted = list(found), [spec.name for spec in specs]
    wants = f"the model's inputs are: {listed(wanted)}"
    for each in came:
        if each not in wanted:
            raise WrongInputError(f"{name} holds {each!r}, which is no input", wants)
    for each in wanted:
        if each not in came:
            raise WrongInputError(f"{name} holds no {each!r}", f"{wants}; it holds: {listed(came)}")


def _cast(name: str, spec: TensorSpec, array: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """The array in the input's numpy type, where that changes no value."""
    wanted = DTYPES[spec.datatype]
    where = f"{name}: the array for {spec.name!r} is {array.dtype}"
    if spec.datatype is Datatype.BYTES:
        if array.dtype.kind not in "SU":
            raise WrongInputError(f"{where}, the model takes BYTES", "give an array of strings")
        return as_bytes(array.reshape(-1).tolist()).reshape(array.shape)
    if array.dtype == wanted:
        return array
    hint = f"save it as numpy.{wanted.name}"
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "b") != (wanted.kind == "b"):
        raise WrongInputError(f"{where}, the model takes {spec.datatype}", hint)
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
        unchanged = np.array_equal(cast.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")
    if not unchanged:
        raise WrongInputError(f"{where}, the model takes {spec.datatype}, and the values would change", hint)
    notes.append(f"{where}; it was sent as {spec.datatype}, which changes no value")
    return cast


def as_bytes(elements: Sequence[str | bytes]) -> NDArray[Any]:
    """Strings as a flat array of BYTES elements."""
    found = np.empty(len(elements), object)
    found[:] = [each.encode() if isinstance(each, str) else each for each in elements]
    return found


def fit_shape(name: str, spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """The array with the batch axis that its input has and it lacks. Raises WrongInputError when it does not fit."""
    came = list(array.shape)
    if array.ndim == len(spec.shape) - 1 and spec.shape[0] in (-1, 1):
        array = array[None]
    fits = array.ndim == len(spec.shape) and all(
        wanted in (-1, length) for wanted, length in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        free = " (-1 is free)" if -1 in spec.shape else ""
        raise WrongInputError(
            f"{name}: what is given for {spec.name!r} has shape {came}",
            f"the model takes {list(spec.shape)}{free}",
        )
    return np.ascontiguousarray(array)
