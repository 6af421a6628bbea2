"""What a model takes and what it refuses: the message names the tensor, what came and what is wanted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.standins import manifest

from edged.errors import Code, EdgedError
from edged.serving.admission import MAX_TEXTS, Admitted, admit, check_contents
from edged.serving.request import Asked, Call, Contents, InputMeta
from edged.types import Datatype
from edged.worker.messages import Form

BATCHED = manifest(
    name="batched",
    max_batch_size=4,
    inputs=[("image", "FP32", (-1, 2, -1)), ("text", "BYTES", (-1,))],
    outputs=[("scores", "FP32", (-1, 10)), ("label", "BYTES", (-1,))],
)
WHOLE = manifest(
    name="whole",
    max_batch_size=0,
    inputs=[("x", "INT64", (2, -1)), ("scale", "FP64", ())],
    outputs=[("y", "INT64", (2, -1))],
)

TEXTS = manifest(
    name="texts", max_batch_size=4, inputs=[("a", "BYTES", (-1, -1)), ("b", "BYTES", (-1, -1)), ("x", "FP32", (-1, -1))]
)
TEXT_ALONE = manifest(name="text", max_batch_size=0, inputs=[("a", "BYTES", (-1, -1))])

IMAGE, TEXT = ("image", "FP32", (3, 2, 5)), ("text", "BYTES", (3,))
X, SCALE = ("x", "INT64", (2, 7)), ("scale", "FP64", ())


def request(inputs, outputs=(), contents=()):
    metas = tuple(InputMeta(*each) for each in inputs)
    return Call("", "", "", metas, tuple(map(Asked, outputs)), tuple(contents), signature=metas)


def raw(size):
    return Contents(Form.RAW, (bytes(size),), -1)


def varints(count):
    return Contents(Form.VARINT, (bytes(count),), count)


class TestWhatIsTaken:
    def test_a_batch(self):
        assert admit(BATCHED, request([IMAGE, TEXT])) == Admitted(
            key=((("image", "FP32", (2, 5)), ("text", "BYTES", ())), ("scores", "label"), (0, 0)),
            rows=3,
            max_rows=4,
            inputs=("image", "text"),
            outputs=("scores", "label"),
            classes=(0, 0),
            output_datatypes=(Datatype.FP32, Datatype.BYTES),
            shapes=((3, 2, 5), (3,)),
            elements=(30, 3),
            datatypes=(Datatype.FP32, Datatype.BYTES),
        )

    def test_a_request_without_a_batch_axis_is_one_row_whatever_its_shapes(self):
        admitted = admit(WHOLE, request([X, SCALE]))
        assert (admitted.rows, admitted.shapes, admitted.elements) == (1, ((2, 7), ()), (14, 1))

    @pytest.mark.parametrize(
        ("of", "inputs", "rows"),
        [
            pytest.param(BATCHED, [TEXT, IMAGE], 3, id="inputs in any order"),
            pytest.param(BATCHED, [("image", "FP32", (4, 2, 1)), ("text", "BYTES", (4,))], 4, id="a full batch"),
            pytest.param(BATCHED, [("image", "FP32", (0, 2, 5)), ("text", "BYTES", (0,))], 0, id="no rows"),
            pytest.param(BATCHED, [("image", "FP32", (1, 2, 0)), ("text", "BYTES", (1,))], 1, id="an empty free axis"),
            pytest.param(
                BATCHED, [("image", "FP32", (1, 2, 2**39)), ("text", "BYTES", (1,))], 1, id="2⁴⁰ elements and no more"
            ),
            pytest.param(WHOLE, [("x", "INT64", (2, 0)), SCALE], 1, id="empty, without a batch"),
        ],
    )
    def test_shapes(self, of, inputs, rows):
        admitted = admit(of, request(inputs))
        assert admitted.rows == rows
        assert admitted.inputs == tuple(name for name, _, _ in inputs)
        assert admitted.elements == tuple(math.prod(shape) for _, _, shape in inputs)

    @pytest.mark.parametrize(
        ("asked", "given_back"),
        [
            ((), ("scores", "label")),
            (("label",), ("label",)),
            (("label", "scores"), ("label", "scores")),
        ],
    )
    def test_outputs_come_as_asked_for_and_all_of_them_when_none_is_named(self, asked, given_back):
        assert admit(BATCHED, request([IMAGE, TEXT], asked)).outputs == given_back


@pytest.mark.parametrize(
    ("a", "b", "rows", "max_rows"),
    [
        pytest.param(0, 0, 4, 4, id="none"),
        pytest.param(1, 1, 4, 4, id="few"),
        pytest.param(MAX_TEXTS // 8, MAX_TEXTS // 8, 4, 4, id="as many as fit"),
        pytest.param(MAX_TEXTS // 8, MAX_TEXTS // 8 + 1, 3, 3, id="one too many for four rows"),
        pytest.param(MAX_TEXTS, 0, 1, 1, id="as many as one row may have"),
        pytest.param(MAX_TEXTS, MAX_TEXTS, 0, 0, id="rows that nobody could send"),
    ],
)
def test_a_batch_has_no_more_rows_than_their_texts_allow(a, b, rows, max_rows):
    inputs = [("a", "BYTES", (rows, a)), ("b", "BYTES", (rows, b)), ("x", "FP32", (rows, 2**30))]
    assert admit(TEXTS, request(inputs)).max_rows == max_rows


REFUSED = {
    "no inputs": (BATCHED, [], (), "misses input 'image'; its inputs: image, text"),
    "one missing": (BATCHED, [IMAGE], (), "misses input 'text'; its inputs: image, text"),
    "an unknown one": (
        BATCHED,
        [IMAGE, TEXT, ("mask", "BOOL", (3,))],
        (),
        "has no input 'mask'; its inputs: image, text",
    ),
    "an unknown one with a very long name": (
        BATCHED,
        [("m" * 5000, "BOOL", (3,))],
        (),
        f"has no input '{'m' * 63}…'; its inputs: image, text",
    ),
    "the same twice": (BATCHED, [IMAGE, IMAGE, TEXT], (), "got input 'image' twice; give each input once"),
    "another datatype": (
        BATCHED,
        [("image", "FP16", (3, 2, 5)), TEXT],
        (),
        "got input 'image' as 'FP16'; it takes FP32",
    ),
    "a datatype that does not exist": (
        BATCHED,
        [("image", "float32", (3, 2, 5)), TEXT],
        (),
        "got input 'image' as 'float32'; it takes FP32",
    ),
    "no datatype": (BATCHED, [("image", "", (3, 2, 5)), TEXT], (), "got input 'image' as ''; it takes FP32"),
    "an axis less": (
        BATCHED,
        [("image", "FP32", (3, 10)), TEXT],
        (),
        "got input 'image' with shape [3, 10]; it takes [-1, 2, -1], -1 being any size",
    ),
    "no axes": (
        BATCHED,
        [("image", "FP32", ()), TEXT],
        (),
        "got input 'image' with shape []; it takes [-1, 2, -1], -1 being any size",
    ),
    "axes where there are none": (
        WHOLE,
        [X, ("scale", "FP64", (1,))],
        (),
        "got input 'scale' with shape [1]; it takes [], -1 being any size",
    ),
    "very many axes": (
        BATCHED,
        [("image", "FP32", (1,) * 5000), TEXT],
        (),
        "got input 'image' with shape with 5000 axes; it takes [-1, 2, -1], -1 being any size",
    ),
    "another size of a fixed axis": (
        BATCHED,
        [("image", "FP32", (3, 3, 5)), TEXT],
        (),
        "got input 'image' with shape [3, 3, 5]; it takes [-1, 2, -1], -1 being any size",
    ),
    "a fixed axis that is empty": (
        BATCHED,
        [("image", "FP32", (3, 0, 5)), TEXT],
        (),
        "got input 'image' with shape [3, 0, 5]; it takes [-1, 2, -1], -1 being any size",
    ),
    "a negative size": (
        BATCHED,
        [("image", "FP32", (3, 2, -1)), TEXT],
        (),
        "got input 'image' with shape [3, 2, -1]; it takes [-1, 2, -1], -1 being any size",
    ),
    "a negative batch": (
        BATCHED,
        [("image", "FP32", (-1, 2, 5)), ("text", "BYTES", (-1,))],
        (),
        "got input 'image' with shape [-1, 2, 5]; it takes [-1, 2, -1], -1 being any size",
    ),
    "more elements than there can be": (
        BATCHED,
        [("image", "FP32", (1, 2, 2**39 + 1)), TEXT],
        (),
        f"got input 'image' with shape [1, 2, {2**39 + 1}]; no tensor is that large",
    ),
    "a size of 63 bits": (
        WHOLE,
        [("x", "INT64", (2, 2**63 - 1)), SCALE],
        (),
        f"got input 'x' with shape [2, {2**63 - 1}]; no tensor is that large",
    ),
    "a huge axis beside an empty one": (
        BATCHED,
        [("image", "FP32", (0, 2, 2**62)), ("text", "BYTES", (0,))],
        (),
        f"got input 'image' with shape [0, 2, {2**62}]; no tensor is that large",
    ),
    "inputs of different rows": (
        BATCHED,
        [IMAGE, ("text", "BYTES", (2,))],
        (),
        "got input 'image' with 3 rows and 'text' with 2; all inputs of a request have the same axis 0",
    ),
    "more rows than a batch takes": (
        BATCHED,
        [("image", "FP32", (5, 2, 1)), ("text", "BYTES", (5,))],
        (),
        "got 5 rows; it takes at most 4 in one request",
    ),
    "more texts than one execution takes": (
        TEXTS,
        [("a", "BYTES", (4, MAX_TEXTS // 8)), ("b", "BYTES", (4, MAX_TEXTS // 8 + 1)), ("x", "FP32", (4, 2**30))],
        (),
        f"got {MAX_TEXTS + 4} elements of BYTES as 'a', 'b'; a request has at most {MAX_TEXTS} of them",
    ),
    "more texts than one execution takes, without a batch axis": (
        TEXT_ALONE,
        [("a", "BYTES", (2, MAX_TEXTS))],
        (),
        f"got {2 * MAX_TEXTS} elements of BYTES as 'a'; a request has at most {MAX_TEXTS} of them",
    ),
    "an unknown output": (
        BATCHED,
        [IMAGE, TEXT],
        ("scores", "boxes"),
        "has no output 'boxes'; its outputs: scores, label",
    ),
    "an input as output": (BATCHED, [IMAGE, TEXT], ("image",), "has no output 'image'; its outputs: scores, label"),
    "the same output twice": (
        BATCHED,
        [IMAGE, TEXT],
        ("label", "label"),
        "was asked for output 'label' twice; ask for each output once",
    ),
}


@pytest.mark.parametrize(("of", "inputs", "outputs", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(of, inputs, outputs, words):
    with pytest.raises(EdgedError) as caught:
        admit(of, request(inputs, outputs))
    assert caught.value.code is Code.INVALID_TENSOR
    assert str(caught.value) == f"model {of.name!r} {words}"


class TestContents:
    """Lengths are held against shapes before anything waits for them."""

    @pytest.mark.parametrize(
        ("of", "inputs", "contents"),
        [
            pytest.param(BATCHED, [IMAGE, TEXT], [raw(120), raw(12)], id="to the byte"),
            pytest.param(BATCHED, [IMAGE, TEXT], [raw(120), raw(99)], id="BYTES of any length above their prefixes"),
            pytest.param(
                BATCHED,
                [IMAGE, TEXT],
                [Contents(Form.RAW, (bytes(20), bytes(100)), -1), raw(12)],
                id="in several parts",
            ),
            pytest.param(
                BATCHED, [("image", "FP32", (0, 2, 5)), ("text", "BYTES", (0,))], [raw(0), raw(0)], id="nothing"
            ),
            pytest.param(WHOLE, [X, SCALE], [varints(14), raw(8)], id="varints, counted"),
        ],
    )
    def test_that_fit(self, of, inputs, contents):
        check_contents(of, admit(of, request(inputs)), contents)

    @pytest.mark.parametrize(
        ("of", "inputs", "contents", "words"),
        [
            pytest.param(
                BATCHED,
                [IMAGE, TEXT],
                [raw(119), raw(12)],
                "got input 'image' with 119 bytes; FP32 of shape [3, 2, 5] takes 120 bytes",
                id="a byte too few",
            ),
            pytest.param(
                BATCHED,
                [IMAGE, TEXT],
                [raw(121), raw(12)],
                "got input 'image' with 121 bytes; FP32 of shape [3, 2, 5] takes 120 bytes",
                id="a byte too many",
            ),
            pytest.param(
                BATCHED,
                [("image", "FP32", (0, 2, 5)), ("text", "BYTES", (0,))],
                [raw(4), raw(0)],
                "got input 'image' with 4 bytes; FP32 of shape [0, 2, 5] takes 0 bytes",
                id="something for nothing",
            ),
            pytest.param(
                BATCHED,
                [IMAGE, TEXT],
                [raw(120), raw(11)],
                "got input 'text' with 11 bytes; BYTES of shape [3] takes a 4-byte length before each of 3 elements",
                id="BYTES shorter than their prefixes",
            ),
            pytest.param(
                WHOLE,
                [X, SCALE],
                [varints(13), raw(8)],
                "got input 'x' with 13 elements; INT64 of shape [2, 7] takes 14 elements",
                id="a varint too few",
            ),
            pytest.param(
                WHOLE,
                [X, SCALE],
                [varints(14), raw(0)],
                "got input 'scale' with 0 bytes; FP64 of shape [] takes 8 bytes",
                id="nothing for a scalar",
            ),
            pytest.param(
                WHOLE,
                [("x", "INT64", (2, 2**39)), SCALE],
                [raw(8), raw(8)],
                f"got input 'x' with 8 bytes; INT64 of shape [2, {2**39}] takes {2**43} bytes",
                id="a huge shape with next to nothing in it",
            ),
        ],
    )
    def test_that_do_not_fit(self, of, inputs, contents, words):
        with pytest.raises(EdgedError) as caught:
            check_contents(of, admit(of, request(inputs)), contents)
        assert caught.value.code is Code.INVALID_TENSOR
        assert str(caught.value) == f"model {of.name!r} {words}"


class TestWhoMayShareABatch:
    """Those of one key: equal inputs but for their rows, and equal outputs."""

    ONE = request([IMAGE, TEXT])

    @pytest.mark.parametrize(
        ("other", "shared"),
        [
            pytest.param(ONE, True, id="the same"),
            pytest.param(request([("image", "FP32", (1, 2, 5)), ("text", "BYTES", (1,))]), True, id="other rows"),
            pytest.param(request([("image", "FP32", (0, 2, 5)), ("text", "BYTES", (0,))]), True, id="no rows"),
            pytest.param(request([IMAGE, TEXT], ["scores", "label"]), True, id="all outputs by name"),
            pytest.param(request([("image", "FP32", (3, 2, 6)), TEXT]), False, id="another size of a free axis"),
            pytest.param(request([TEXT, IMAGE]), False, id="another order of inputs"),
            pytest.param(request([IMAGE, TEXT], ["scores"]), False, id="fewer outputs"),
            pytest.param(request([IMAGE, TEXT], ["label", "scores"]), False, id="another order of outputs"),
        ],
    )
    def test_keys(self, other, shared):
        assert (admit(BATCHED, self.ONE).key == admit(BATCHED, other).key) is shared

    def test_contents_written_in_another_way_share_a_batch(self):
        of = manifest(inputs=[("x", "INT32", (-1, 2))])
        keys = {admit(of, request([("x", "INT32", (1, 2))], contents=[form])).key for form in (raw(8), varints(2))}
        assert len(keys) == 1

    def test_without_a_batch_axis_the_whole_shape_counts(self):
        assert admit(WHOLE, request([X, SCALE])).key != admit(WHOLE, request([("x", "INT64", (2, 8)), SCALE])).key

    @given(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=2),
        st.lists(st.sampled_from([(), ("scores",), ("label",), ("scores", "label")]), min_size=2, max_size=2),
    )
    def test_exactly_those_whose_tensors_can_be_laid_end_to_end(self, shapes, outputs):
        calls = [
            request([("image", "FP32", (rows, 2, width)), ("text", "BYTES", (rows,))], asked)
            for (rows, width), asked in zip(shapes, outputs, strict=True)
        ]
        one, other = (admit(BATCHED, each) for each in calls)
        mergeable = all(a[1:] == b[1:] for a, b in zip(one.shapes, other.shapes, strict=True))
        assert (one.key == other.key) is (mergeable and one.outputs == other.outputs)


SIZES = st.one_of(st.integers(-3, 8), st.integers(-(2**63), 2**63 - 1))
METAS = st.builds(
    InputMeta,
    st.one_of(st.sampled_from(["image", "text", "x", "scale"]), st.text(max_size=80)),
    st.one_of(st.sampled_from(list(Datatype)), st.text(max_size=80)),
    st.lists(SIZES, max_size=20).map(tuple),
)
FITTING = st.builds(
    lambda rows, width: [InputMeta("image", "FP32", (rows, 2, width)), InputMeta("text", "BYTES", (rows,))],
    SIZES,
    SIZES,
)
OUTPUTS = st.lists(st.one_of(st.sampled_from(["scores", "label", "y"]), st.text(max_size=80)), max_size=3)
CONTENTS = st.one_of(st.integers(0, 200).map(raw), st.integers(0, 200).map(varints))


@given(
    st.sampled_from([BATCHED, WHOLE]),
    st.one_of(st.lists(METAS, max_size=4), FITTING),
    OUTPUTS,
    st.lists(CONTENTS, min_size=4, max_size=4),
)
def test_whatever_comes_is_taken_or_refused_in_words(of, inputs, outputs, contents):
    asked = Call("", "", "", tuple(inputs), tuple(map(Asked, outputs)), tuple(contents[: len(inputs)]), signature=())
    refused = None
    try:
        admitted = admit(of, asked)
        assert 0 <= admitted.rows <= max(of.max_batch_size, 1)
        assert set(admitted.inputs) == {spec.name for spec in of.inputs}
        check_contents(of, admitted, asked.contents)
    except EdgedError as error:
        refused = error
    if refused:
        assert refused.code is Code.INVALID_TENSOR
        assert repr(of.name) in refused.message
        assert refused.hint
