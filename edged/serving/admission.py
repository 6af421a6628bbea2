"""Holds a request against its model's declaration. Pure.

What is wrong with a request is said here, before it costs anything: the message names the tensor, what came and what
was wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from edged.bundle.manifest import Manifest
from edged.errors import Code, EdgedError
from edged.serving.request import Asked, Call, Contents, InputMeta
from edged.types import Datatype, TensorSpec
from edged.worker.messages import Form

# No tensor has more elements: 2⁴⁰ elements are a terabyte, and numpy counts in 63 bits.
_MAX_ELEMENTS = 2**40

# So many elements of BYTES are executed at once, those of all inputs and requests together. A worker walks them one by
# one, and so do engines: from 0.4 s (2.5 GHz x86, ONNX Runtime) to some seconds on a small device, twice that where a
# batch fails and each member is tried alone. A hang, by default after 10 s, would be charged to the model.
MAX_TEXTS = 2**18

# Classes are the largest elements, and these have none.
_NO_CLASSES = (Datatype.BOOL, Datatype.BYTES)

BatchKey = tuple[object, ...]


class Admitted(msgspec.Struct, frozen=True):
    """What follows from a request's metadata alone; the same for all requests of one signature."""

    key: BatchKey
    """Requests of one key may share a batch."""
    rows: int
    """Axis 0 of every input where there is a batch, else 1."""
    max_rows: int
    """How many rows requests of this key may have together in one batch; 0: there is no batch."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    classes: tuple[int, ...]
    """For each of `outputs` how many classes of each row are asked for; 0: its elements."""
    output_datatypes: tuple[Datatype, ...]
    shapes: tuple[tuple[int, ...], ...]
    elements: tuple[int, ...]
    datatypes: tuple[Datatype, ...]


def admit(manifest: Manifest, call: Call) -> Admitted:
    """Checks a request's metadata. Raises EdgedError (invalid_tensor)."""
    declared = {spec.name: spec for spec in manifest.inputs}
    seen: set[str] = set()
    for meta in call.inputs:
        if meta.name not in declared:
            raise _invalid(manifest, f"has no input {_short(meta.name)}", f"its inputs: {', '.join(declared)}")
        if meta.name in seen:
            raise _invalid(manifest, f"got input {meta.name!r} twice", "give each input once")
        seen.add(meta.name)
        _check_input(manifest, declared[meta.name], meta)
    if missing := [name for name in declared if name not in seen]:
        raise _invalid(manifest, f"misses input {missing[0]!r}", f"its inputs: {', '.join(declared)}")
    rows = _rows(manifest, call.inputs)
    max_rows = _max_rows(manifest, call.inputs, rows)
    outputs = _outputs(manifest, call.outputs)
    classes = _classes(manifest, call.outputs) or (0,) * len(outputs)
    declared_datatypes = {spec.name: spec.datatype for spec in manifest.outputs}
    batched = manifest.max_batch_size > 0
    key = (
        tuple((meta.name, meta.datatype, meta.shape[1:] if batched else meta.shape) for meta in call.inputs),
        outputs,
        classes,
    )
    return Admitted(
        key=key,
        rows=rows,
        max_rows=max_rows,
        inputs=tuple(meta.name for meta in call.inputs),
        outputs=outputs,
        classes=classes,
        output_datatypes=tuple(
            Datatype.BYTES if count else declared_datatypes[name] for name, count in zip(outputs, classes, strict=True)
        ),
        shapes=tuple(meta.shape for meta in call.inputs),
        elements=tuple(math.prod(meta.shape) for meta in call.inputs),
        datatypes=tuple(Datatype(meta.datatype) for meta in call.inputs),
    )


def _check_input(manifest: Manifest, spec: TensorSpec, meta: InputMeta) -> None:
    if meta.datatype != spec.datatype:
        raise _invalid(manifest, f"got input {spec.name!r} as {_short(meta.datatype)}", f"it takes {spec.datatype}")
    shape = list(meta.shape)
    fits = len(shape) == len(spec.shape) and all(
        came >= 0 and wanted in (-1, came) for came, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        came = str(shape) if len(shape) <= 16 else f"with {len(shape)} axes"
        raise _invalid(
            manifest,
            f"got input {spec.name!r} with shape {came}",
            f"it takes {list(spec.shape)}, -1 being any size",
        )
    if math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        raise _invalid(manifest, f"got input {spec.name!r} with shape {shape}", "no tensor is that large")


def _rows(manifest: Manifest, inputs: Sequence[InputMeta]) -> int:
    if not manifest.max_batch_size:
        return 1
    rows = inputs[0].shape[0]
    for meta in inputs[1:]:
        if meta.shape[0] != rows:
            raise _invalid(
                manifest,
                f"got input {inputs[0].name!r} with {rows} rows and {meta.name!r} with {meta.shape[0]}",
                "all inputs of a request have the same axis 0",
            )
    if rows > manifest.max_batch_size:
        raise _invalid(manifest, f"got {rows} rows", f"it takes at most {manifest.max_batch_size} in one request")
    return rows


def _max_rows(manifest: Manifest, inputs: Sequence[InputMeta], rows: int) -> int:
    batched = manifest.max_batch_size > 0
    texts = {
        meta.name: math.prod(meta.shape[1:] if batched else meta.shape)
        for meta in inputs
        if meta.datatype == Datatype.BYTES
    }
    a_row = sum(texts.values())
    if rows * a_row > MAX_TEXTS:
        raise _invalid(
            manifest,
            f"got {rows * a_row} elements of BYTES as {', '.join(map(repr, texts))}",
            f"a request has at most {MAX_TEXTS} of them",
        )
    return min(manifest.max_batch_size, MAX_TEXTS // a_row) if a_row else manifest.max_batch_size


def _outputs(manifest: Manifest, asked: Sequence[Asked]) -> tuple[str, ...]:
    declared = [spec.name for spec in manifest.outputs]
    names = tuple(each.name for each in asked)
    for position, name in enumerate(names):
        if name not in declared:
            raise _invalid(manifest, f"has no output {_short(name)}", f"its outputs: {', '.join(declared)}")
        if name in names[:position]:
            raise _invalid(manifest, f"was asked for output {name!r} twice", "ask for each output once")
    return names or tuple(declared)


def _classes(manifest: Manifest, asked: Sequence[Asked]) -> tuple[int, ...]:
    datatypes = {spec.name: spec.datatype for spec in manifest.outputs}
    for each in asked:
        if each.classes and datatypes[each.name] in _NO_CLASSES:
            found = f"was asked for classes of output {each.name!r}, which is {datatypes[each.name]}"
            raise _invalid(manifest, found, "leave out its parameter 'classification'")
    return tuple(each.classes for each in asked)


def check_contents(manifest: Manifest, admitted: Admitted, contents: Sequence[Contents]) -> None:
    """Checks that each input's contents are as long as its shape takes. Raises EdgedError (invalid_tensor).

    The lengths inside a BYTES tensor are left to the worker: walking them here would hold up everybody else.
    """
    for name, datatype, shape, elements, content in zip(
        admitted.inputs, admitted.datatypes, admitted.shapes, admitted.elements, contents, strict=True
    ):
        if content.form is Form.VARINT:
            if content.count != elements:
                raise _invalid(
                    manifest,
                    f"got input {name!r} with {content.count} elements",
                    _takes(datatype, shape, f"{elements} elements"),
                )
        elif datatype is Datatype.BYTES:
            if content.size < 4 * elements:
                raise _invalid(
                    manifest,
                    f"got input {name!r} with {content.size} bytes",
                    _takes(datatype, shape, f"a 4-byte length before each of {elements} elements"),
                )
        elif content.size != elements * datatype.size:
            found = f"got input {name!r} with {content.size} bytes"
            raise _invalid(manifest, found, _takes(datatype, shape, f"{elements * datatype.size} bytes"))


def _takes(datatype: Datatype, shape: Sequence[int], what: str) -> str:
    return f"{datatype} of shape {list(shape)} takes {what}"


def _invalid(manifest: Manifest, found: str, wanted: str) -> EdgedError:
    return EdgedError(Code.INVALID_TENSOR, f"model {manifest.name!r} {found}", wanted)


def _short(text: str) -> str:
    return repr(text if len(text) <= 64 else text[:63] + "…")
