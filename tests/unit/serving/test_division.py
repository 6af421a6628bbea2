"""A request cut into parts, and the answers of the parts as one: to the bit what it would have been at once."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.standins import manifest

from edged.errors import Code, EdgedError
from edged.protowire import encode_varint
from edged.serving import division
from edged.serving.admission import admit
from edged.serving.division import Division
from edged.serving.regions import Shared, Spot
from edged.serving.request import Call, Contents, InputMeta, Place
from edged.types import Datatype
from edged.worker.messages import Answered, Form, MemberAnswer, OutputPart
from edged.worker.regions import Region

SHAPE = (-1, -1)


def admitted(datatypes, shape):
    """A request for a model that gives each of its inputs back."""
    inputs = [(f"x{index}", datatype, SHAPE) for index, datatype in enumerate(datatypes)]
    outputs = [(f"y{index}", datatype, SHAPE) for index, datatype in enumerate(datatypes)]
    metas = tuple(InputMeta(name, str(datatype), shape) for name, datatype, _ in inputs)
    of = manifest(max_batch_size=1000, inputs=inputs, outputs=outputs)
    return admit(of, Call("doubles", "", "", metas, (), (), signature=metas))


def texts(each):
    return b"".join(struct.pack("<I", len(text)) + text for text in each)


def cut_up(made, sizes):
    """The parts of a request of these sizes at most, as (rows, the bytes of each input); it is answered with them."""
    parts = []
    while made.left:
        of_part, contents, _ = made.part(sizes[len(parts) % len(sizes)])
        data = [b"".join(content.parts) for content in contents]
        heads = tuple(OutputPart(shape, len(each)) for shape, each in zip(of_part.shapes, data, strict=True))
        assert made.take(Answered([], (), 1, 2, 3), MemberAnswer(heads), list(map(memoryview, data))) == of_part.rows
        parts.append((of_part.rows, data))
    return parts


@st.composite
def tensors(draw, rows, columns):
    """One input: its datatype, its contents in one or more pieces, and the bytes of each of its rows."""
    datatype = draw(st.sampled_from([Datatype.BYTES, Datatype.FP32, Datatype.UINT8, Datatype.INT64]))
    if datatype is Datatype.BYTES:
        each = [draw(st.lists(st.binary(max_size=3), min_size=columns, max_size=columns)) for _ in range(rows)]
        of_rows = list(map(texts, each))
        form, count = Form.RAW, -1
    elif datatype is Datatype.INT64 and draw(st.booleans()):
        number = st.one_of(st.integers(0, 200), st.integers(0, 2**64 - 1))
        each = [draw(st.lists(number, min_size=columns, max_size=columns)) for _ in range(rows)]
        of_rows = [b"".join(map(encode_varint, row)) for row in each]
        form, count = Form.VARINT, rows * columns
    else:
        size = columns * datatype.size
        of_rows = [draw(st.binary(min_size=size, max_size=size)) for _ in range(rows)]
        form, count = Form.RAW, -1
    whole = b"".join(of_rows)
    at = draw(st.integers(0, len(whole)))
    return datatype, Contents(form, draw(st.sampled_from([(whole,), (whole[:at], whole[at:])])), count), of_rows


@given(st.data(), st.integers(1, 12), st.integers(0, 4), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_any_parts_of_any_tensors_are_all_of_it_in_order(data, rows, columns, sizes):
    drawn = data.draw(st.lists(tensors(rows, columns), min_size=1, max_size=3))
    metadata = admitted([datatype for datatype, _, _ in drawn], (rows, columns))
    made = Division(metadata, [contents for _, contents, _ in drawn], None, 0)
    parts = cut_up(made, sizes)
    at = 0
    for count, found in parts:
        assert 0 < count <= max(sizes)
        assert found == [b"".join(of_rows[at : at + count]) for _, _, of_rows in drawn]
        at += count
    assert at == rows
    outputs = made.outputs()
    assert [output.shape for output in outputs] == [(rows, columns)] * len(drawn)
    assert [bytes(output.data) for output in outputs] == [b"".join(of_rows) for _, _, of_rows in drawn]
    assert made.spent_ns == (len(parts), 2 * len(parts), 3 * len(parts))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=3000), st.data())
def test_varints_end_where_they_end_whatever_block_they_lie_in(numbers, data):
    count = data.draw(st.integers(0, len(numbers)))
    written = memoryview(b"".join(map(encode_varint, numbers)))
    assert division._end_of_varints(written, 0, count) == len(b"".join(map(encode_varint, numbers[:count])))


def test_one_that_begins_again_knows_nothing_of_what_was_done():
    made = Division(admitted(["UINT8"], (3, 1)), [Contents(Form.RAW, (b"abc",), -1)], None, 0)
    made.part(2)
    made.take(Answered([], (), 1, 1, 1), MemberAnswer((OutputPart((2, 1), 2),)), [memoryview(b"zz")])
    made.begin(None)
    assert made.left == 3
    cut_up(made, [2])
    assert bytes(made.outputs()[0].data) == b"abc"


def test_a_part_that_failed_is_cut_again():
    made = Division(admitted(["UINT8"], (3, 1)), [Contents(Form.RAW, (b"abc",), -1)], None, 0)
    made.part(2)
    assert [found for _, found in cut_up(made, [1])] == [[b"a"], [b"b"], [b"c"]]


def region(size):
    return Region("r", "file", 0, size, -1)


def test_what_lies_in_shared_memory_is_cut_there():
    of = admitted(["FP32", "FP32"], (5, 2))
    place = Place("r", 100, 40)
    held = region(1000)
    shared = Shared((Spot(held, 100, 40), None), (None, Spot(held, 500, 64)), (held,))
    made = Division(of, [Contents(Form.RAW, (), -1, place), Contents(Form.RAW, (bytes(40),), -1)], shared, 0)
    seen = []
    while made.left:
        of_part, contents, cut = made.part(2)
        (lying, _), (_, target) = cut.inputs, cut.outputs
        seen.append((of_part.rows, lying.offset, contents[0].size, target.offset, target.size))
        heads = tuple(OutputPart(shape, 8 * of_part.rows) for shape in of_part.shapes)
        made.take(
            Answered([], (), 0, 0, 0), MemberAnswer(heads), [memoryview(bytes(8 * of_part.rows)), memoryview(b"")]
        )
    assert seen == [(2, 100, 16, 500, 64), (2, 116, 16, 516, 48), (1, 132, 8, 532, 32)]
    carried, placed = made.outputs()
    assert (len(carried.data), carried.place) == (40, None)
    assert placed.place == Place("r", 500, 40), "as long as it is"


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        pytest.param(Contents(Form.RAW, (), -1, Place("r", 0, 100)), (5, 1), id="texts in shared memory"),
        pytest.param(
            Contents(Form.RAW, (bytes(4 * (division.MAX_TEXTS + 5)),), -1),
            (5, division.MAX_TEXTS // 5 + 1),
            id="too many texts",
        ),
        pytest.param(
            Contents(Form.RAW, (texts([b"a"]) + b"\xff\xff\xff\xff" + bytes(12),), -1), (4, 1), id="a length that lies"
        ),
        pytest.param(Contents(Form.RAW, (texts([b"abcdefgh"]) + b"\1\0",), -1), (3, 1), id="lengths that end too soon"),
    ],
)
def test_what_cannot_be_cut_goes_at_once(content, shape):
    made = Division(admitted(["BYTES"], shape), [content], None, 0)
    assert made.part(2) is None
    assert made.whole


def test_what_is_too_much_goes_with_the_last_part_so_that_the_worker_tells():
    made = Division(admitted(["BYTES"], (2, 1)), [Contents(Form.RAW, (texts([b"a", b"b"]) + b"more",), -1)], None, 0)
    assert [found for _, found in cut_up(made, [1])] == [[texts([b"a"])], [texts([b"b"]) + b"more"]]


def test_parts_that_do_not_fit_together_are_executed_at_once_after_all():
    made = Division(admitted(["UINT8"], (4, 1)), [Contents(Form.RAW, (b"abcd",), -1)], None, 0)
    for columns, rows in ((3, 2), (4, 0)):
        made.part(2)
        answer = MemberAnswer((OutputPart((2, columns), 2 * columns),))
        assert made.take(Answered([], (), 0, 0, 0), answer, [memoryview(bytes(2 * columns))]) == rows
    assert made.part(2) is None


def test_an_answer_that_grows_too_large_to_send_is_told_as_soon_as_it_does():
    made = Division(admitted(["UINT8"], (9, 1)), [Contents(Form.RAW, (bytes(9),), -1)], None, 5)
    with pytest.raises(EdgedError) as told:
        cut_up(made, [3])
    assert (told.value.code, told.value.message) == (
        Code.ANSWER_TOO_LARGE,
        "the answer takes 6 bytes, at most 5 can be sent",
    )


def test_the_parts_are_not_copied():
    held = np.arange(8, dtype=np.uint8)
    made = Division(admitted(["UINT8"], (8, 1)), [Contents(Form.RAW, (memoryview(held),), -1)], None, 0)
    _, (content,), _ = made.part(3)
    held[0] = 77
    assert content.parts[0][0] == 77
