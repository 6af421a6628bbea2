"""Whether callers of one revision can be served by another without noticing. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from edged.bundle.manifest import Manifest
from edged.types import TensorSpec


def objections(old: Manifest, new: Manifest) -> list[str]:
    """Why `new` is no compatible superset of `old`, a sentence each; none when every request and answer still fits."""
    return list(_objections(old, new))


def _objections(old: Manifest, new: Manifest) -> Iterator[str]:
    if bool(old.max_batch_size) != bool(new.max_batch_size):
        words = {True: "is a batch", False: "is no batch"}
        yield f"axis 0 {words[bool(new.max_batch_size)]}; before, it {words[bool(old.max_batch_size)]}"
    elif new.max_batch_size < old.max_batch_size:
        yield f"max_batch_size is {new.max_batch_size}, below {old.max_batch_size} before"
    inputs, outputs = _by_name(new.inputs), _by_name(new.outputs)
    for spec in old.inputs:
        yield from _input_objections(spec, inputs.get(spec.name))
    for name in inputs.keys() - _by_name(old.inputs).keys():
        yield f"input {name!r} is new, and callers do not send it"
    for spec in old.outputs:
        yield from _output_objections(spec, outputs.get(spec.name))


def _by_name(specs: tuple[TensorSpec, ...]) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in specs}


def _input_objections(old: TensorSpec, new: TensorSpec | None) -> Iterator[str]:
    """What was taken must be taken still."""
    if new is None:
        yield f"input {old.name!r} is gone"
    elif new.datatype is not old.datatype:
        yield f"input {old.name!r} is {new.datatype}, was {old.datatype}"
    elif not _covers(new.shape, old.shape):
        yield f"input {old.name!r} takes {list(new.shape)}, took {list(old.shape)}"


def _output_objections(old: TensorSpec, new: TensorSpec | None) -> Iterator[str]:
    """What is given must be something that could be given before."""
    if new is None:
        yield f"output {old.name!r} is gone"
    elif new.datatype is not old.datatype:
        yield f"output {old.name!r} is {new.datatype}, was {old.datatype}"
    elif not _covers(old.shape, new.shape):
        yield f"output {old.name!r} has shape {list(new.shape)}, had {list(old.shape)}"
    elif old.labels != new.labels[: len(old.labels)]:
        yield f"the labels of output {old.name!r} mean something else than before"


def _covers(wide: tuple[int, ...], narrow: tuple[int, ...]) -> bool:
    return len(wide) == len(narrow) and all(have in (-1, want) for have, want in zip(wide, narrow, strict=True))
