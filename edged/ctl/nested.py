"""JSON that a person gives, as a model's inputs: `{"input": nested lists}`, or bare lists for a model's only input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edged import schema
from edged.ctl.arrays import as_bytes, check_names, fit_shape
from edged.ctl.faults import WrongInputError
from edged.ctl.samples import Sample
from edged.types import Datatype, TensorSpec
from edged.worker.codec import DTYPES

_MAX_DEPTH = 32  # numpy's own bound, and twice what a model may have


def inputs(sample: Sample, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    """Raises WrongInputError naming the sample, the place in it, what came and what is wanted."""
    example = "{" + ", ".join(f'"{spec.name}": [...]' for spec in specs[:3]) + (", ..." if specs[3:] else "") + "}"
    try:
        data = msgspec.json.decode(sample.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WrongInputError(f"{sample.name} is not JSON: {error}", f"give {example}") from error
    if not isinstance(data, dict):
        if len(specs) != 1:
            raise WrongInputError(f"{sample.name} names no inputs, and the model takes {len(specs)}", f"give {example}")
        data = {specs[0].name: data}
    check_names(sample.name, data, specs)
    return {spec.name: fit_shape(sample.name, spec, _array(sample.name, spec, data[spec.name])) for spec in specs}


def _array(name: str, spec: TensorSpec, data: Any) -> NDArray[Any]:
    shape = _shape(data)
    where = f"{name}: {spec.name}"
    elements: list[Any] = []
    _flatten(where, data, shape, elements)
    for index, element in enumerate(elements):
        objection = _objection(spec.datatype, element)
        if objection:
            place = "".join(f"[{part}]" for part in np.unravel_index(index, shape)) if shape else ""
            raise WrongInputError(f"{where}{place} is {_show(element)}", objection)
    if spec.datatype is Datatype.BYTES:
        return as_bytes(elements).reshape(shape)
    if spec.datatype is Datatype.BF16:
        return to_bf16(np.array(elements, np.float32)).reshape(shape)
    return np.array(elements, DTYPES[spec.datatype]).reshape(shape)


def _shape(data: Any) -> tuple[int, ...]:
    """The shape that the first elements suggest."""
    shape: list[int] = []
    while isinstance(data, list) and len(shape) < _MAX_DEPTH:
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return tuple(shape)


def _flatten(where: str, data: Any, shape: Sequence[int], elements: list[Any]) -> None:
    """Adds what `data` holds to `elements`. Raises WrongInputError where its lists are not as long as `shape` says."""
    if not shape:
        if isinstance(data, list):
            raise WrongInputError(
                f"{where} is a list, where a value stands elsewhere", "all lists of a level are alike"
            )
        elements.append(data)
    elif not isinstance(data, list):
        raise WrongInputError(f"{where} is {_show(data)}, where lists stand elsewhere", f"give {shape[0]} elements")
    elif len(data) != shape[0]:
        raise WrongInputError(f"{where} has {len(data)} elements", f"the first list of its level has {shape[0]}")
    else:
        for index, part in enumerate(data):
            _flatten(f"{where}[{index}]", part, shape[1:], elements)


def _show(data: Any) -> str:
    return "null" if data is None else schema.show(data)


def _objection(datatype: Datatype, element: Any) -> str:
    """Why an element is none of the datatype; empty when it is one."""
    number = isinstance(element, int | float) and not isinstance(element, bool)
    if datatype is Datatype.BYTES:
        return "" if isinstance(element, str) else "BYTES takes strings"
    if datatype is Datatype.BOOL:
        return "" if isinstance(element, bool) else "BOOL takes true and false"
    if datatype in (Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64):
        largest = float(np.finfo(np.float32 if datatype is Datatype.BF16 else DTYPES[datatype]).max)
        fits = number and not math.isinf(element) and abs(element) <= largest
        return "" if fits else f"{datatype} takes numbers up to ±{largest:.3g}"
    limits = np.iinfo(DTYPES[datatype])
    fits = number and isinstance(element, int) and limits.min <= element <= limits.max
    return "" if fits else f"{datatype} takes whole numbers from {limits.min} to {limits.max}"


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest BF16, ties to even; numpy has no such type."""
    bits = values.view(np.uint32)
    found: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return found
