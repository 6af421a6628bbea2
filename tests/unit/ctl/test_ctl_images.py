"""Pictures as inputs."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edged.ctl import images
from edged.ctl.faults import WrongInputError
from edged.ctl.images import Frame
from edged.ctl.samples import Sample
from edged.types import Datatype, TensorSpec


def picture(image: Image.Image, kind: str = "PNG", **options: Any) -> Sample:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Sample("photo.png", ".png", file.getvalue())


def pixels(array: Any) -> Sample:
    return picture(Image.fromarray(np.array(array, np.uint8)))


def spec(*shape: int, datatype: Datatype = Datatype.UINT8) -> TensorSpec:
    return TensorSpec("image", datatype, shape)


def one(sample: Sample, wanted: TensorSpec) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    found = images.inputs(sample, [wanted], notes)
    assert list(found) == ["image"]
    assert found["image"].flags.c_contiguous
    return found["image"], notes


def refusal(sample: Sample, *wanted: TensorSpec) -> str:
    with pytest.raises(WrongInputError) as caught:
        images.inputs(sample, wanted, [])
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "frame"),
    [
        ((-1, 1, 8, 9), Frame(8, 9, 1, True, True)),
        ((-1, 3, -1, -1), Frame(-1, -1, 3, True, True)),
        ((1, 8, 9, 3), Frame(8, 9, 3, False, True)),
        ((3, 8, 9), Frame(8, 9, 3, True, False)),
        ((8, 9, 1), Frame(8, 9, 1, False, False)),
        ((-1, 3, 8, 1), None),  # either could be the channels
        ((2, 3, 8, 8), None),  # two pictures
        ((-1, 8, 8), None),
        ((-1, 4, 8, 8), None),
        ((-1, 10), None),
        ((1, 1, 3, 8, 8), None),
        ((), None),
    ],
)
def test_how_a_model_wants_its_picture(shape: tuple[int, ...], frame: Frame | None):
    assert images.frame_of(shape) == frame


GREY = [[0, 51], [102, 153], [204, 255], [17, 34]]
RED_BLUE = [[[255, 0, 0], [0, 0, 255]]]


def test_grey_channels_first_from_0_to_1():
    found, notes = one(pixels(GREY), spec(-1, 1, 4, 2, datatype=Datatype.FP32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array([[GREY]]) / 255, rtol=1e-7)
    assert notes == []


def test_colours_channels_first_and_last():
    first, _ = one(pixels(RED_BLUE), spec(-1, 3, 1, 2))
    assert first.dtype == np.uint8
    assert first.tolist() == [[[[255, 0]], [[0, 0]], [[0, 255]]]]
    last, _ = one(pixels(RED_BLUE * 2), spec(-1, 2, 2, 3))
    assert last.tolist() == [RED_BLUE * 2]


def test_channels_last_without_a_batch_axis():
    found, _ = one(pixels([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]), spec(2, 2, 3))
    assert found.tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]


@pytest.mark.parametrize(
    ("datatype", "wanted"), [(Datatype.FP16, np.float16), (Datatype.FP32, np.float32), (Datatype.FP64, np.float64)]
)
def test_floats_are_the_nearest_to_the_255ths(datatype: Datatype, wanted: type):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found, _ = one(pixels(grey), spec(-1, 1, 16, 16, datatype=datatype))
    assert found.dtype == wanted
    np.testing.assert_array_equal(found.reshape(16, 16), (grey / np.float64(255)).astype(wanted))
    assert (found.min(), found.max()) == (0, 1)


def test_colour_becomes_grey_and_grey_becomes_colour():
    grey, _ = one(pixels(RED_BLUE), spec(-1, 1, -1, -1))
    assert grey.tolist() == [[[[76, 29]]]]  # ITU-R 601: 299/1000 red, 114/1000 blue
    colour, _ = one(pixels(GREY), spec(-1, 3, -1, -1))
    assert colour.tolist() == [[GREY, GREY, GREY]]


def test_sixteen_bits_are_scaled_not_cut_off():
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    found, _ = one(picture(deep), spec(-1, 1, -1, -1))
    assert found.tolist() == [[[[0, 1, 128, 255]]]]


def test_palettes_and_transparency_are_colours_too():
    indexed = Image.fromarray(np.array(RED_BLUE, np.uint8)).convert("P")
    found, _ = one(picture(indexed), spec(-1, 3, -1, -1))
    assert found.shape == (1, 3, 1, 2)
    clear, _ = one(picture(Image.new("RGBA", (1, 1), (1, 2, 3, 4))), spec(-1, 3, -1, -1))
    assert clear.reshape(-1).tolist() == [1, 2, 3]


def test_another_size_is_fitted_with_a_note():
    found, notes = one(picture(Image.new("L", (20, 30), 77)), spec(-1, 1, 8, 9))
    assert found.shape == (1, 1, 8, 9)
    assert set(found.reshape(-1).tolist()) == {77}
    assert notes == ["photo.png was resized from 20x30 to 9x8 pixels"]


def test_a_free_height_keeps_the_pictures_own():
    found, notes = one(picture(Image.new("L", (20, 30))), spec(-1, 1, -1, 10))
    assert found.shape == (1, 1, 30, 10)
    assert len(notes) == 1


def test_a_photo_is_turned_as_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    found, notes = one(picture(Image.new("RGB", (2, 4)), "JPEG", exif=exif), spec(-1, 3, -1, -1))
    assert found.shape == (1, 3, 2, 4)
    assert notes == []


@pytest.mark.parametrize("datatype", [Datatype.INT8, Datatype.BF16, Datatype.BOOL, Datatype.BYTES, Datatype.INT64])
def test_other_datatypes_are_refused_by_name(datatype: Datatype):
    said = refusal(pixels(GREY), spec(-1, 1, 4, 2, datatype=datatype))
    assert f"image {datatype} [-1, 1, 4, 2]" in said
    assert "UINT8 (0 to 255) or FP16, FP32, FP64 (0 to 1)" in said


def test_models_that_take_no_picture_are_refused():
    assert "takes no picture, but image UINT8 [-1, 10]" in refusal(pixels(GREY), spec(-1, 10))
    two = refusal(pixels(GREY), spec(-1, 1, 4, 2), TensorSpec("scale", Datatype.FP32, (1,)))
    assert "takes 2: image UINT8 [-1, 1, 4, 2], scale FP32 [1]" in two


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_picture_that_claims_to_be_huge_is_refused():
    for side in (10_000, 100_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        said = refusal(Sample("bomb.png", ".png", bomb), spec(-1, 1, 8, 8))
        assert said.startswith("bomb.png is too large a picture")


def test_what_is_no_whole_picture_is_refused():
    whole = picture(Image.effect_noise((64, 64), 50)).content
    empty = Sample("photo.png", ".png", b"")
    assert "is no picture that can be read" in refusal(empty, spec(-1, 1, 64, 64))
    assert "is no picture that can be read" in refusal(Sample("a.png", ".png", b"GIF89a" + b"\0" * 99), spec(1, 8, 8))
    for length in (30, 60, len(whole) // 2):
        said = refusal(Sample("photo.png", ".png", whole[:length]), spec(-1, 1, 64, 64))
        assert said.startswith("photo.png is ")
        assert said.endswith("PNG or JPEG file")
