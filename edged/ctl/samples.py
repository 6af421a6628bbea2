"""The file that a person gives `edgectl infer`: read within bounds, and made into a model's inputs by its kind."""

from __future__ import annotations

import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edged.ctl.faults import WrongInputError
from edged.ctl.words import size
from edged.types import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BYTES = 256 * 1024 * 1024

_IMAGES = (".png", ".jpg", ".jpeg")
_KINDS = (*_IMAGES, ".npz", ".json")


class Sample(msgspec.Struct, frozen=True):
    """What was given: its name for messages, its kind by suffix, its bytes."""

    name: str
    suffix: str
    content: bytes


def read(file: str) -> Sample:
    """The file's bytes; `-` is standard input, as JSON. Raises WrongInputError."""
    if file == "-":
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
        _check_size("standard input", len(content))
        return Sample("standard input", ".json", content)
    path = Path(file)
    suffix = path.suffix.lower()
    if suffix not in _KINDS:
        raise WrongInputError(
            f"{file} is of no kind that can be sent", f"give one of {', '.join(_KINDS)}, or - for JSON"
        )
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise WrongInputError(f"{file} is no regular file", "give a file, or - to read JSON from a pipe")
        _check_size(file, found.st_size)
        with path.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise WrongInputError(
            f"{file} cannot be read: {error.strerror}", "check its name and who may read it"
        ) from error
    _check_size(file, len(content))
    return Sample(file, suffix, content)


def _check_size(name: str, count: int) -> None:
    if count > MAX_BYTES:
        raise WrongInputError(f"{name} has {size(count)}", f"edgectl takes at most {size(MAX_BYTES)}")


def inputs(sample: Sample, specs: Sequence[TensorSpec], notes: list[str]) -> dict[str, NDArray[Any]]:
    """An array for each of a model's inputs, of its numpy type and shape.

    What was done to make the sample fit is added to `notes`. Raises WrongInputError naming the sample, what came and
    what is wanted.
    """
    # Only the kind that is there is imported: Pillow and numpy cost more than everything else.
    if sample.suffix in _IMAGES:
        from edged.ctl import images

        return images.inputs(sample, specs, notes)
    from edged.ctl import arrays, nested

    return arrays.inputs(sample, specs, notes) if sample.suffix == ".npz" else nested.inputs(sample, specs)
