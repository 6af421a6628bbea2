"""A picture as the input of a model that takes one."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edged.ctl.faults import WrongInputError
from edged.ctl.samples import Sample
from edged.types import Datatype, TensorSpec
from edged.worker.codec import DTYPES

# A file of a few KiB can claim any size.
MAX_PIXELS = 64 * 1024 * 1024

_MODES = {1: "L", 3: "RGB"}
_FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)


class Frame(msgspec.Struct, frozen=True):
    """How a model wants its picture; -1: any height or width."""

    height: int
    width: int
    channels: int
    channels_first: bool
    batched: bool


def inputs(sample: Sample, specs: Sequence[TensorSpec], notes: list[str]) -> dict[str, NDArray[Any]]:
    """The picture as the array of a model's only input. Raises WrongInputError."""
    takes = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)
    hint = "give the inputs as .npz or .json"
    if len(specs) != 1:
        raise WrongInputError(f"{sample.name}: a picture is one input, and the model takes {len(specs)}: {takes}", hint)
    (spec,) = specs
    frame = frame_of(spec.shape)
    if frame is None:
        raise WrongInputError(f"{sample.name}: the model takes no picture, but {takes}", hint)
    if spec.datatype not in (*_FLOATS, Datatype.UINT8):
        wants = f"pictures are sent as UINT8 (0 to 255) or FP16, FP32, FP64 (0 to 1); {hint}"
        raise WrongInputError(f"{sample.name}: the model takes {takes}", wants)
    pixels = _pixels(sample, frame, notes)
    array = pixels.reshape(*pixels.shape[:2], frame.channels)
    if frame.channels_first:
        array = array.transpose(2, 0, 1)
    if spec.datatype in _FLOATS:
        array = (array / np.float64(255)).astype(DTYPES[spec.datatype])
    return {spec.name: np.ascontiguousarray(array[None] if frame.batched else array)}


def frame_of(shape: Sequence[int]) -> Frame | None:
    """How an input of this shape wants a picture: NCHW or NHWC, told from which of the two axes is 1 or 3 wide.

    None where it wants none, or where both are.
    """
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] not in (-1, 1)):
        return None
    first, middle, last = shape[-3:]
    batched = len(shape) == 4
    if (first in _MODES) == (last in _MODES):
        return None
    if first in _MODES:
        return Frame(middle, last, first, True, batched)
    return Frame(first, middle, last, False, batched)


def _pixels(sample: Sample, frame: Frame, notes: list[str]) -> NDArray[np.uint8]:
    """The picture upright, in the colours and of the size wanted."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(sample.content), formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"it has {picture.width} by {picture.height} pixels")
                found = _coloured(ImageOps.exif_transpose(picture), frame.channels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        hint = f"edgectl takes at most {MAX_PIXELS} pixels"
        raise WrongInputError(f"{sample.name} is too large a picture: {error}", hint) from error
    except UnidentifiedImageError as error:
        raise WrongInputError(f"{sample.name} is no picture that can be read", "give a PNG or JPEG file") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError) as error:
        raise WrongInputError(
            f"{sample.name} is a damaged picture: {error}", "give a whole PNG or JPEG file"
        ) from error
    width = frame.width if frame.width > 0 else found.width
    height = frame.height if frame.height > 0 else found.height
    if (width, height) != found.size:
        notes.append(f"{sample.name} was resized from {found.width}x{found.height} to {width}x{height} pixels")
        found = found.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(found, np.uint8)


def _coloured(picture: Image.Image, channels: int) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) // 257).astype(np.uint8))
    return picture if picture.mode == _MODES[channels] else picture.convert(_MODES[channels])
