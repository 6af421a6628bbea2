"""One loaded variant: what it makes of batches, goldens and a manifest that says otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.loads import changed

from edged.errors import Code, EdgedError
from edged.types import Comparison, Datatype
from edged.worker.arena import Window
from edged.worker.codec import DTYPES
from edged.worker.messages import Failed, Form, OutputPart, RunGolden, RunShadow, WarmupRun, Watched
from edged.worker.model import Model, failed
from edged.worker.regions import Mappings

NO_ARENA = Window(-1)
NO_REGIONS = Mappings(None)

SUMS = (
    [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
    [("a", "FP32", [-1, 3]), ("b", "FP32", [-1, 3])],
    [("sum", "FP32", [-1, 3]), ("difference", "FP32", [-1, 3])],
)


def constant(name: str, kind: int, values: list[Any]) -> Any:
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, [len(values)], values))


# Picks from 10, 20, 30 and 40; another index makes the engine fail.
PICK = (
    [constant("table", TensorProto.FLOAT, [10, 20, 30, 40]), helper.make_node("Gather", ["table", "x"], ["y"])],
    [("x", "INT64", [-1, 2])],
    [("y", "FP32", [-1, 2])],
)
# Drops the rows that are false: rows go missing without the engine failing.
DROP = (
    [helper.make_node("Compress", ["x", "keep"], ["y"], axis=0)],
    [("x", "FP32", [-1, 2]), ("keep", "BOOL", [-1])],
    [("y", "FP32", [-1, 2])],
)


def identity(datatype: str, shape: list[int]) -> Any:
    return [helper.make_node("Identity", ["x"], ["y"])], [("x", datatype, shape)], [("y", datatype, shape)]


class Engine:
    """Stands before a model's session, and notes how many rows each run had."""

    def __init__(self, model: Model) -> None:
        self._session = model._session
        self.rows: list[int] = []
        model._session = self

    def run(self, inputs: Any, outputs: Any) -> Any:
        self.rows.append(len(np.atleast_1d(next(iter(inputs.values())))))
        return self._session.run(inputs, outputs)


def sums(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(seed)
    return {name: numbers.standard_normal((rows, 3)).astype(np.float32) for name in ("a", "b")}


def picks(*indices: int) -> dict[str, np.ndarray]:
    return {"x": np.array(indices, np.int64).reshape(-1, 2)}


def answers(model: Model, batch: Any) -> list[Any]:
    """Each member's outputs as lists by name, or its Failed."""
    members = batch.read(*model.infer(batch.message, batch.body, NO_ARENA, NO_REGIONS))
    return [
        member if isinstance(member, Failed) else {name: array.tolist() for name, array in member.items()}
        for member in members
    ]


def told(call: Any, *arguments: Any) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        call(*arguments)
    return caught.value


# Batches.


@pytest.mark.parametrize("rows", [[1], [3], [1, 1], [2, 1, 4], [0, 2], [2, 0, 1], [1] * 40])
def test_a_batch_runs_once_and_gives_each_member_its_own(folder, batch_of, rows):
    load = folder.load(*SUMS)
    model = Model(load)
    engine = Engine(model)
    members = [sums(count, seed) for seed, count in enumerate(rows)]
    found = answers(model, batch_of(load, members))
    assert engine.rows == [sum(rows)]
    assert found == [answers(model, batch_of(load, [member]))[0] for member in members]
    assert found == [
        {"sum": (member["a"] + member["b"]).tolist(), "difference": (member["a"] - member["b"]).tolist()}
        for member in members
    ]


@pytest.mark.parametrize("datatype", Datatype)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data())
def test_members_of_every_datatype_pass_through_a_batch(folder, batch_of, datatype, data):
    load = folder.load(*identity(datatype, [-1, -1]))
    width = data.draw(st.integers(0, 3))
    members = []
    for rows in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)):
        if datatype is Datatype.BYTES:
            array = np.empty(rows * width, object)
            array[:] = [
                text.encode()
                for text in data.draw(st.lists(st.text(max_size=4), min_size=rows * width, max_size=rows * width))
            ]
        else:
            size = rows * width * datatype.size
            content = data.draw(st.binary(min_size=size, max_size=size))
            if datatype is Datatype.BOOL:
                content = bytes(byte & 1 for byte in content)
            array = np.frombuffer(content, DTYPES[datatype])
        members.append(array.reshape(rows, width))
    batch = batch_of(load, [{"x": member} for member in members])
    found = [answer["y"] for answer in batch.read(*Model(load).infer(batch.message, batch.body, NO_ARENA, NO_REGIONS))]
    if not sum(map(len, members)):  # what is not computed is as empty as it can be
        assert [array.shape for array in found] == [(0, 0) for _ in members]
    elif datatype is Datatype.BYTES:
        assert [array.tolist() for array in found] == [member.tolist() for member in members]
    else:
        assert [(array.shape, array.tobytes()) for array in found] == [
            (member.shape, member.tobytes()) for member in members
        ]


@pytest.mark.parametrize("outputs", [["sum"], ["difference"], ["difference", "sum"], ["sum", "difference"]])
def test_outputs_come_in_the_order_asked_for(folder, batch_of, outputs):
    load = folder.load(*SUMS)
    members = [sums(2, 1), sums(1, 2)]
    found = answers(Model(load), batch_of(load, members, outputs))
    assert [list(answer) for answer in found] == [outputs, outputs]
    whole = answers(Model(load), batch_of(load, members))
    assert found == [{name: answer[name] for name in outputs} for answer in whole]


def test_raw_and_typed_members_share_a_batch(folder, batch_of):
    load = folder.load(*identity("INT32", [-1, 2]))
    batch = batch_of(load, [{"x": np.array([[1, 2]], "<i4")}, {"x": np.array([[3, 4]], "<i4")}])
    batch.contents[0][1] = b"\3\4"
    found = answers(Model(load), batch.damaged(1, form=Form.VARINT, size=2))
    assert found == [{"y": [[1, 2]]}, {"y": [[3, 4]]}]


@pytest.mark.parametrize("rows", [[], [0], [0, 0, 0]])
def test_a_batch_without_rows_does_not_trouble_the_engine(folder, batch_of, rows):
    load = folder.load(*SUMS)
    model = Model(load)
    engine = Engine(model)
    batch = batch_of(load, [sums(count) for count in rows])
    found = batch.read(*model.infer(batch.message, batch.body, NO_ARENA, NO_REGIONS))
    assert [{name: array.shape for name, array in answer.items()} for answer in found] == [
        {"sum": (0, 3), "difference": (0, 3)} for _ in rows
    ]
    assert engine.rows == []


# Members that fail.


@pytest.mark.parametrize("bad", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_a_member_that_cannot_be_read_has_its_own_error(folder, batch_of, bad):
    load = folder.load(*SUMS)
    model = Model(load)
    engine = Engine(model)
    members = [sums(1, 1), sums(2, 2), sums(3, 3)]
    batch = batch_of(load, members)
    whole = answers(model, batch)
    for index in bad:
        batch.damaged(index, shape=(9, 3))
    found = answers(model, batch)
    for index, answer in enumerate(found):
        if index in bad:
            size = members[index]["a"].nbytes
            message = f"input 'a' has {size} bytes; FP32 of shape [9, 3] takes 108"
            assert answer == Failed(Code.INVALID_TENSOR, message, "")
        else:
            assert answer == whole[index]
    assert engine.rows == [6, *(len(member["a"]) for index, member in enumerate(members) if index not in bad)]


@pytest.mark.parametrize(
    ("datatype", "values", "content", "message"),
    [
        ("BOOL", [True, False], b"\1\2", "input 'x' has a BOOL element that is neither 0 nor 1"),
        ("BYTES", [b"a", b""], b"\1\0\0\0a\xff\0\0\0", "input 'x': element 1 is said to be 255 bytes long, 0 are left"),
        ("BYTES", [b"a", b""], b"\1\0\0\0\xff\0\0\0\0", "input 'x': element 0 is not UTF-8 text"),
    ],
)
def test_a_member_is_read_with_care(folder, batch_of, datatype, values, content, message):
    load = folder.load(*identity(datatype, [-1, 2]))
    member = {"x": np.array([values], DTYPES[Datatype(datatype)])}
    batch = batch_of(load, [member, member, member])
    batch.contents[0][1] = content
    found = answers(Model(load), batch)
    assert [found[0], found[2]] == [{"y": [values]}] * 2
    assert (found[1].code, found[1].message) == (Code.INVALID_TENSOR, message)


@pytest.mark.parametrize("max_batch_size", [8, 0])
@pytest.mark.parametrize("bad", [[0], [1], [0, 2], [0, 1, 2]])
def test_a_member_on_which_the_engine_fails_is_found_out(folder, batch_of, bad, max_batch_size):
    load = folder.load(*PICK, max_batch_size=max_batch_size)
    members = [picks(0, 1), picks(2, 3), picks(3, 0)]
    for index in bad:
        members[index] = picks(1, 99)
    found = answers(Model(load), batch_of(load, members))
    for index, answer in enumerate(found):
        if index in bad:
            assert answer.code == Code.INVALID_TENSOR
            assert answer.message.startswith("onnxruntime refuses the values: ")
            assert "idx=99" in answer.message
        else:
            assert answer == {"y": (10.0 * (members[index]["x"] + 1)).tolist()}


def test_a_lone_member_on_which_the_engine_fails_is_not_run_again(folder, batch_of):
    load = folder.load(*PICK)
    model = Model(load)
    engine = Engine(model)
    (found,) = answers(model, batch_of(load, [picks(99, 0)]))
    assert (found.code, engine.rows) == (Code.INVALID_TENSOR, [1])


def test_the_next_batch_knows_nothing_of_a_failure(folder, batch_of):
    load = folder.load(*PICK)
    model = Model(load)
    answers(model, batch_of(load, [picks(99, 0), picks(0, 0)]))
    assert answers(model, batch_of(load, [picks(0, 0)])) == [{"y": [[10.0, 10.0]]}]


def test_rows_that_go_missing_are_told_to_whom_they_belong(folder, batch_of):
    load = folder.load(*DROP)
    rows = np.arange(4, dtype=np.float32).reshape(2, 2)
    members = [{"x": rows, "keep": np.array([True, True])}, {"x": rows, "keep": np.array([True, False])}]
    found = answers(Model(load), batch_of(load, members))
    assert found[0] == {"y": rows.tolist()}
    message = "output 'y' came with shape [1, 2], declared is [2, 2]"
    assert found[1] == Failed(Code.INFERENCE_FAILED, message, "")


@pytest.mark.parametrize(
    ("came", "declared", "max_batch_size", "message"),
    [
        ([2, 3], [-1, 4], 8, "output 'y' came with shape [2, 3], declared is [2, 4]"),
        ([2, 3], [2, 4], 0, "output 'y' came with shape [2, 3], declared is [2, 4]"),
        ([3, 2], [-1, -1], 8, "output 'y' came with shape [3, 2], declared is [2, -1]"),
    ],
)
def test_an_output_of_another_shape_than_declared_is_the_models_fault(
    folder, batch_of, came, declared, max_batch_size, message
):
    """The graph leaves it open; only a run shows it."""
    load = folder.load(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", "FP32", [-1, 3]), ("shape", "INT64", [-1])],
        [("y", "FP32", [-1, -1])],
        max_batch_size=max_batch_size,
        declared={"outputs": [("y", "FP32", declared)]},
    )
    member = {"x": np.zeros((2, 3), np.float32), "shape": np.array(came)}
    (found,) = answers(Model(load), batch_of(load, [member]))
    assert found == Failed(Code.INFERENCE_FAILED, message, "")


# Models that do not batch.


@pytest.mark.parametrize("shape", [[], [3], [2, 2]])
def test_without_a_batch_axis_each_member_runs_by_itself(folder, batch_of, shape):
    load = folder.load(*identity("FP64", shape), max_batch_size=0)
    model = Model(load)
    engine = Engine(model)
    members = [{"x": np.full(shape, value)} for value in (1.5, 2.5, 3.5)]
    found = answers(model, batch_of(load, members))
    assert found == [{"y": member["x"].tolist()} for member in members]
    assert len(engine.rows) == 3


# What is loaded.


@pytest.mark.parametrize(
    ("inputs", "outputs", "problem"),
    [
        (
            [("a", "FP32", [-1, 3]), ("c", "FP32", [-1, 3])],
            None,
            "input 'c' is declared, the model has: a, b; input 'b' of the model is not declared",
        ),
        (
            [("a", "FP32", [-1, 3]), ("b", "FP64", [-1, 3])],
            None,
            "input 'b' is declared FP64, the model has FP32",
        ),
        (
            [("a", "FP32", [-1, 3]), ("b", "FP32", [-1])],
            None,
            "input 'b' is declared [-1], the model has [-1, 3]",
        ),
        (
            [("a", "FP32", [-1, 4]), ("b", "FP32", [-1, 3])],
            None,
            "input 'a' is declared [-1, 4], the model has [-1, 3]",
        ),
        (
            [("a", "FP32", [-1, 3]), ("b", "FP32", [-1, -1])],
            None,
            "input 'b' is declared [-1, -1], the model has [-1, 3]",
        ),
        ([("a", "FP32", [-1, 3])], None, "input 'b' of the model is not declared"),
        (None, [("total", "FP32", [-1, 3])], "output 'total' is declared, the model has: difference, sum"),
        (None, [("sum", "INT8", [-1, 3])], "output 'sum' is declared INT8, the model has FP32"),
        (None, [("sum", "FP32", [-1, 3, 1])], "output 'sum' is declared [-1, 3, 1], the model has [-1, 3]"),
    ],
)
def test_a_manifest_that_says_otherwise_is_not_loaded(folder, inputs, outputs, problem):
    declared = {"inputs": inputs or SUMS[1], "outputs": outputs or SUMS[2]}
    error = told(Model, folder.load(*SUMS, declared=declared))
    assert error.code is Code.INCOMPATIBLE_SIGNATURE
    assert error.message == f"model.onnx is not what the manifest says: {problem}"


def test_a_manifest_may_be_silent_about_outputs_and_narrow_what_is_open(folder, batch_of):
    declared = {"inputs": [("x", "FP32", [-1, 2])], "outputs": [("y", "FP32", [-1, 2])]}
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    shape = [-1, -1]
    load = folder.load(nodes, [("x", "FP32", shape)], [("y", "FP32", shape), ("z", "FP32", shape)], declared=declared)
    found = answers(Model(load), batch_of(load, [{"x": np.ones((1, 2), np.float32)}]))
    assert found == [{"y": [[1.0, 1.0]]}]


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"runtime": "abacus"}, Code.INCOMPATIBLE_RUNTIME, "runtime 'abacus' does not exist here"),
        ({"device": "TPU"}, Code.LOAD_FAILED, "device 'TPU' is not one that onnxruntime can use here"),
        ({"folder": "/nowhere"}, Code.LOAD_FAILED, "model.onnx cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_loaded_says_why(folder, changes, code, message):
    error = told(Model, changed(folder.load(*SUMS), **changes))
    assert (error.code, error.message) == (code, message)


def test_a_model_that_was_changed_is_not_loaded(folder):
    load = folder.load(*SUMS)
    (folder.path / "model.onnx").write_bytes(b"another")
    assert told(Model, load).code is Code.DIGEST_MISMATCH


def test_an_error_passes_the_link_whole():
    error = EdgedError(Code.LOAD_FAILED, "what", "remedy")
    assert failed(error) == Failed("load_failed", "what", "remedy")


# Warm-up.


def test_a_model_is_warmed_up_as_often_as_asked(folder, monkeypatch):
    from edged.runtimes import onnxruntime

    rows: list[int] = []
    run = onnxruntime._OnnxSession.run

    def noted(session: Any, inputs: Any, outputs: Any) -> Any:
        rows.append(len(inputs["a"]))
        return run(session, inputs, outputs)

    monkeypatch.setattr(onnxruntime._OnnxSession, "run", noted)
    runs = [WarmupRun(folder.npz("one.npz", sums(1)), 2), WarmupRun(folder.npz("four.npz", sums(4)), 3)]
    model = Model(folder.load(*SUMS, warmup=runs))
    assert rows == [1, 1, 4, 4, 4]
    assert model.loaded.load_s > 0
    assert model.loaded.warmup_s > 0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((1, 3), np.float32)}, "w.npz holds no 'b'"),
        (
            {"a": np.zeros((1, 3), np.float32), "b": np.zeros((1, 3))},
            "w.npz: the array for 'b' is float64, the tensor is FP32",
        ),
        (
            {"a": np.zeros((1, 4), np.float32), "b": np.zeros((1, 4), np.float32)},
            "warm-up w.npz fails: onnxruntime refuses the values: ",
        ),
        (
            {"a": np.zeros((3, 1, 3), np.float32), "b": np.zeros((3, 1, 3), np.float32)},
            "warm-up w.npz fails: onnxruntime refuses the values: ",
        ),
        (
            {"a": np.zeros(3, np.float32), "b": np.zeros((1, 3), np.float32)},
            "warm-up w.npz fails: the inputs do not have one number of rows: a [3], b [1, 3]",
        ),
        (
            {"a": np.float32(1), "b": np.float32(1)},
            "warm-up w.npz fails: the inputs do not have one number of rows: a [], b []",
        ),
    ],
)
def test_a_warm_up_that_fails_is_named(folder, arrays, message):
    error = told(Model, folder.load(*SUMS, warmup=[WarmupRun(folder.npz("w.npz", arrays), 1)]))
    assert error.code is Code.LOAD_FAILED
    assert error.message.startswith(message)


# Its answers are as wide as there were rows.
SQUARE = (
    [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ],
    [("x", "FP32", [-1, 2])],
    [("y", "FP32", [-1, -1])],
)


def test_a_warm_up_shows_what_does_not_answer_as_declared(folder):
    declared = {"outputs": [("y", "FP32", [-1, 4])]}
    runs = [WarmupRun(folder.npz("w.npz", {"x": np.ones((2, 2), np.float32)}), 1)]
    error = told(Model, folder.load(*SQUARE, declared=declared, warmup=runs))
    assert error.code is Code.LOAD_FAILED
    assert error.message == "warm-up w.npz fails: output 'y' came with shape [2, 2], declared is [2, 4]"


# Goldens.


def golden_of(folder: Any, arrays: Any, atol: float = 0, rtol: float = 0) -> RunGolden:
    return RunGolden(folder.npz("g.npz", arrays), atol, rtol)


INPUTS = {"inputs/a": np.float32([[1, 2, 3], [4, 5, 6]]), "inputs/b": np.float32([[1, 1, 1], [2, 2, 2]])}
SUM = np.float32([[2, 3, 4], [6, 7, 8]])
DIFFERENCE = np.float32([[0, 1, 2], [2, 3, 4]])


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"sum": SUM}, [Comparison("sum", 6, 0, 0.0, 2, 2, True)]),
        (
            {"difference": DIFFERENCE, "sum": SUM},
            [Comparison("sum", 6, 0, 0.0, 2, 2, True), Comparison("difference", 6, 0, 0.0, 2, 2, True)],
        ),
        ({"sum": SUM + np.float32([[0, 0, 0.5], [9, 0, 0]])}, [Comparison("sum", 6, 1, 9.0, 2, 1, True)]),
        (
            {"sum": SUM[:1]},
            [Comparison("sum", 3, 3, float("inf"), 1, 0, False, "came with shape [2, 3], expected [1, 3]")],
        ),
    ],
)
def test_a_golden_is_measured(folder, expected, found):
    model = Model(folder.load(*SUMS))
    golden = golden_of(folder, INPUTS | {f"outputs/{name}": array for name, array in expected.items()}, atol=1)
    compared = model.golden(golden)
    assert compared.outputs == found
    assert compared.infer_s > 0


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("BYTES", ["a", "grün"]), ("BF16", np.uint16([1, 0x7FC1])), ("BOOL", [True, False]), ("FP32", np.float32(0.5))],
)
def test_a_golden_may_be_of_any_datatype_and_rank(folder, datatype, values):
    model = Model(folder.load(*identity(datatype, list(np.shape(values))), max_batch_size=0))
    (found,) = model.golden(golden_of(folder, {"inputs/x": values, "outputs/y": values})).outputs
    assert (found.outside, found.rows, found.agreeing_rows) == (0, 1, 1)


@pytest.mark.parametrize(
    ("arrays", "code", "message"),
    [
        (INPUTS, Code.GOLDEN_MISMATCH, "g.npz holds no expected output"),
        (INPUTS | {"outputs/total": SUM}, Code.GOLDEN_MISMATCH, "g.npz holds no expected output"),
        ({"outputs/sum": SUM}, Code.LOAD_FAILED, "g.npz holds no 'inputs/a'"),
        (
            INPUTS | {"outputs/sum": SUM.astype(float)},
            Code.LOAD_FAILED,
            "g.npz: the array for 'sum' is float64, the tensor is FP32",
        ),
    ],
)
def test_a_golden_that_holds_too_little_is_refused(folder, arrays, code, message):
    model = Model(folder.load(*SUMS))
    error = told(model.golden, golden_of(folder, arrays))
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize("rows", [0, 1, 8, 9, 16, 21])
def test_a_golden_of_many_rows_is_run_in_batches_that_the_model_takes(folder, monkeypatch, rows):
    from edged.runtimes import onnxruntime

    sizes = []
    run = onnxruntime._OnnxSession.run

    def noted(session: Any, inputs: Any, outputs: Any) -> Any:
        sizes.append(len(inputs["a"]))
        return run(session, inputs, outputs)

    monkeypatch.setattr(onnxruntime._OnnxSession, "run", noted)
    arrays = {name: np.arange(3 * rows, dtype=np.float32).reshape(rows, 3) for name in ("inputs/a", "inputs/b")}
    model = Model(folder.load(*SUMS, max_batch_size=8))
    (found,) = model.golden(golden_of(folder, arrays | {"outputs/sum": arrays["inputs/a"] * 2})).outputs
    assert (found.elements, found.outside, found.shape_matches) == (3 * rows, 0, True)
    assert sum(sizes) == rows
    assert max(sizes) <= 8


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"inputs/a": np.zeros((2, 4), np.float32), "inputs/b": np.zeros((2, 4), np.float32)},
            "g.npz cannot be run: onnxruntime refuses the values: ",
        ),
        (
            {"inputs/a": np.zeros((2, 3), np.float32), "inputs/b": np.zeros((1, 3), np.float32)},
            "g.npz cannot be run: the inputs do not have one number of rows: a [2, 3], b [1, 3]",
        ),
    ],
)
def test_a_golden_that_the_model_cannot_run_is_its_own_fault(folder, arrays, message):
    error = told(Model(folder.load(*SUMS)).golden, golden_of(folder, arrays | {"outputs/sum": SUM}))
    assert error.code is Code.GOLDEN_MISMATCH
    assert error.message.startswith(message)


def test_a_golden_whose_batches_do_not_fit_together_is_refused(folder):
    model = Model(folder.load(*SQUARE, max_batch_size=2))
    arrays = {"inputs/x": np.ones((3, 2), np.float32), "outputs/y": np.ones((3, 3), np.float32)}
    error = told(model.golden, golden_of(folder, arrays))
    assert error.code is Code.GOLDEN_MISMATCH
    assert error.message == "g.npz cannot be run: output 'y' has rows of different shapes: [1], [2]"


def test_a_golden_that_was_changed_is_refused(folder):
    model = Model(folder.load(*SUMS))
    golden = golden_of(folder, INPUTS | {"outputs/sum": SUM})
    folder.npz("g.npz", INPUTS | {"outputs/sum": SUM + 1})
    assert told(model.golden, golden).code is Code.DIGEST_MISMATCH


def test_an_answer_that_is_too_large_to_send_is_that_members_error_and_no_other(folder, batch_of):
    load = folder.load(*identity("FP32", [-1, -1]), max_answer_bytes=64)
    batch = batch_of(load, [{"x": np.ones((1, 16), np.float32)}, {"x": np.ones((2, 16), np.float32)}])
    small, large = batch.read(*Model(load).infer(batch.message, batch.body, NO_ARENA, NO_REGIONS))
    assert np.array_equal(small["y"], np.ones((1, 16), np.float32))
    assert (large.code, large.message) == ("answer_too_large", "the answer takes 128 bytes, at most 64 can be sent")


ELEMENTWISE = (
    [
        helper.make_node("Mul", ["a", "b"], ["product"]),
        helper.make_node("Tanh", ["product"], ["bent"]),
        helper.make_node("Sqrt", ["a"], ["root"]),
    ],
    [("a", "FP32", [-1, -1]), ("b", "FP32", [-1, -1])],
    [("bent", "FP32", [-1, -1]), ("root", "FP32", [-1, -1])],
)
FIXED = (ELEMENTWISE[0], *([(name, kind, [-1, 8]) for name, kind, _ in specs] for specs in ELEMENTWISE[1:]))


@pytest.mark.parametrize("tensors", [pytest.param(ELEMENTWISE, id="free"), pytest.param(FIXED, id="fixed")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_mix_of_rows_gives_each_member_to_the_bit_what_it_would_have_got_alone(folder, batch_of, tensors, data):
    model = Model(folder.load(*tensors))
    load = folder.load(*tensors)
    bits = st.integers(0, 2**32 - 1)
    members = []
    for rows in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6)):
        drawn = data.draw(st.lists(bits, min_size=2, max_size=2))
        random = np.random.default_rng(drawn)
        members.append({name: random.integers(0, 2**32, (rows, 8), np.uint32).view(np.float32) for name in ("a", "b")})
    some = data.draw(st.sampled_from([(), ("root",), ("root", "bent")]))

    def answers(of):
        batch = batch_of(load, of, some)
        return batch.read(*model.infer(batch.message, batch.body, NO_ARENA, NO_REGIONS))

    together = answers(members)
    for member, found in zip(members, together, strict=True):
        if not len(member["a"]):
            assert all(not len(array) for array in found.values())
            continue
        (alone,) = answers([member])
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in alone.items()
        }


# What models answer is counted, of live requests.

DOUBTFUL = Watched("y", "value", (0.0,), 2, (), None, 5.0)


def watching(folder, *watched: Watched) -> Any:
    load = folder.load(*identity("FP32", [-1, 2]))
    return changed(load, watched=watched)


@pytest.mark.parametrize("one_fails", [False, True])
def test_live_results_are_counted_and_the_member_of_a_doubtful_one_is_told(folder, batch_of, monkeypatch, one_fails):
    load = watching(folder, DOUBTFUL)
    model = Model(load)
    if one_fails:  # then each is tried alone
        whole = model._run_whole

        def fails_together(asked: Any, decoded: Any, rows: int) -> Any:
            if rows > 1:
                raise EdgedError(Code.INFERENCE_FAILED, "together it does not go")
            return whole(asked, decoded, rows)

        monkeypatch.setattr(model, "_run_whole", fails_together)
    members = [{"x": np.array([row], np.float32)} for row in ([-1, 1], [1, 9], [2, 3])]
    batch = batch_of(load, members)
    answered, _ = model.infer(batch.message, batch.body, NO_ARENA, NO_REGIONS)
    assert answered.review == (1,)
    (counted,) = answered.counted
    assert (counted.bins, counted.counts, counted.flagged) == ((0, 1), (1, 5), 1)


def test_goldens_shadows_and_warm_up_are_not_counted(folder, batch_of):
    values = np.array([[1, 9]], np.float32)
    load = watching(folder, DOUBTFUL)
    load = changed(load, warmup=(WarmupRun(folder.npz("warmup.npz", {"x": values}), 3),))
    model = Model(load)
    golden = folder.npz("golden.npz", {"inputs/x": values, "outputs/y": values})
    assert model.golden(RunGolden(golden, 0.0, 0.0)).outputs[0].outside == 0
    batch = batch_of(load, [{"x": values}])
    data = values.tobytes()
    shadow = RunShadow(("x",), batch.message.members[0], ("y",), (OutputPart((1, 2), len(data)),), 0.0, 0.0)
    assert model.shadow(shadow, memoryview(data + data)).outputs[0].outside == 0
    answered, _ = model.infer(batch.message, batch.body, NO_ARENA, NO_REGIONS)
    (counted,) = answered.counted
    assert (sum(counted.counts), counted.flagged) == (2, 1), "the live request's own"


def test_a_model_that_is_not_watched_counts_nothing(folder, batch_of):
    load = watching(folder)
    batch = batch_of(load, [{"x": np.ones((1, 2), np.float32)}])
    answered, _ = Model(load).infer(batch.message, batch.body, NO_ARENA, NO_REGIONS)
    assert (answered.counted, answered.review) == ((), ())
