"""ONNX Runtime behind the port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as engine
import pytest
from onnx import TensorProto, helper
from support.bundles import ONNX_TYPES, onnx_model

from edged import protowire
from edged.errors import Code, EdgedError
from edged.runtimes import onnxfile, onnxruntime
from edged.runtimes.base import Session, SessionOptions
from edged.types import Datatype, TensorSpec
from edged.worker.codec import DTYPES

ONE = SessionOptions(threads=1)


def identity(datatype: str, shape: list[int]) -> bytes:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return onnx_model(nodes, [("x", datatype, shape)], [("y", datatype, shape)])


def session(nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Session:
    return onnxruntime.open_session(onnx_model(nodes, inputs, outputs), ONE)


def refusal(model: bytes, options: SessionOptions = ONE) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        onnxruntime.open_session(model, options)
    assert caught.value.code is Code.LOAD_FAILED
    return caught.value


def failure(opened: Session, inputs: dict[str, Any], outputs: list[str]) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        opened.run(inputs, outputs)
    return caught.value


def strings(*elements: bytes) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


# Tensors.


@pytest.mark.parametrize("datatype", Datatype)
def test_every_datatype_passes(datatype):
    opened = onnxruntime.open_session(identity(datatype, [-1, 2]), ONE)
    spec = TensorSpec("x", datatype, (-1, 2))
    assert (opened.inputs, opened.outputs) == ((spec,), (TensorSpec("y", datatype, (-1, 2)),))
    if datatype is Datatype.BYTES:
        arrays = [strings(b"a", b"", "grün".encode(), b"nul\0inside").reshape(2, 2)]
    else:
        bits = bytes([1, 0, 0, 1]) if datatype is Datatype.BOOL else bytes(range(0xF0, 0x100)) + bytes(range(16))
        arrays = [np.frombuffer(bits, DTYPES[datatype]).reshape(-1, 2)]
    for array in (*arrays, np.empty((0, 2), DTYPES[datatype])):
        (found,) = opened.run({"x": array}, ["y"])
        assert (found.dtype, found.shape) == (DTYPES[datatype], array.shape)
        assert found.tolist() == array.tolist() or found.tobytes() == array.tobytes()


def test_the_datatypes_are_all_there_are():
    assert set(onnxruntime._DATATYPES.values()) == set(Datatype) == set(ONNX_TYPES)


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
def test_a_scalar_passes(datatype):
    opened = onnxruntime.open_session(identity(datatype, []), ONE)
    array = np.array(b"a" if datatype == "BYTES" else 7, DTYPES[Datatype(datatype)])
    (found,) = opened.run({"x": array}, ["y"])
    assert (found.shape, found.tolist()) == ((), array.tolist())


@pytest.mark.parametrize("datatype", Datatype)
def test_inputs_may_be_read_only_and_are_not_changed(datatype):
    opened = onnxruntime.open_session(identity(datatype, [-1]), ONE)
    array = strings(b"a") if datatype is Datatype.BYTES else np.ones(1, DTYPES[datatype])
    array.setflags(write=False)
    opened.run({"x": array}, ["y"])
    assert array.tolist() == ([b"a"] if datatype is Datatype.BYTES else [1])


def test_an_answer_outlives_what_it_was_made_of():
    for datatype in ("FP32", "BF16"):
        opened = onnxruntime.open_session(identity(datatype, [-1]), ONE)
        array = np.arange(64, dtype=DTYPES[Datatype(datatype)])
        (found,) = opened.run({"x": array}, ["y"])
        array[:] = 0
        opened.run({"x": array}, ["y"])
        del opened
        assert found.tolist() == list(range(64))


def test_bfloat16_keeps_its_bits_beside_other_datatypes():
    kinds = ["BF16", "FP32", "BOOL", "INT64"]
    nodes = [helper.make_node("Identity", [f"x{kind}"], [f"y{kind}"]) for kind in kinds]
    nodes.append(helper.make_node("Cast", ["xBF16"], ["as_float"], to=TensorProto.FLOAT))
    opened = session(
        nodes,
        [(f"x{kind}", kind, [-1]) for kind in kinds],
        [("as_float", "FP32", [-1]), *((f"y{kind}", kind, [-1]) for kind in kinds)],
    )
    arrays = {f"x{kind}": np.ones(2, DTYPES[Datatype(kind)]) for kind in kinds}
    arrays["xBF16"] = np.array([0x3F80, 0x7FC1], np.uint16)
    found = opened.run(arrays, ["yINT64", "yBOOL", "yFP32", "yBF16", "as_float"])
    assert [array.tolist() for array in found[:4]] == [[1, 1], [True, True], [1.0, 1.0], [0x3F80, 0x7FC1]]
    assert np.array_equal(found[4], [1.0, np.nan], equal_nan=True)


def test_outputs_come_as_asked_for():
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    opened = session(nodes, [("x", "FP32", [1])], [("y", "FP32", [1]), ("z", "FP32", [1])])
    for asked, expected in ((["z"], [[-2]]), (["z", "y"], [[-2], [2]]), (["y"], [[2]])):
        assert [array.tolist() for array in opened.run({"x": np.float32([2])}, asked)] == expected


@pytest.mark.parametrize("elements", [[b"\xff"], [b"a", b"\xed\xa0\x80"], [b"a\xc3"]])
def test_strings_that_are_no_text_are_refused(elements):
    opened = onnxruntime.open_session(identity("BYTES", [-1]), ONE)
    error = failure(opened, {"x": strings(*elements)}, ["y"])
    assert error.code is Code.INVALID_TENSOR
    assert error.message == f"input 'x': element {len(elements) - 1} is not UTF-8 text"
    assert error.hint == "onnxruntime takes text only in BYTES tensors"


def test_a_model_that_gives_strings_that_are_no_text_is_at_fault():
    value = helper.make_tensor("c", TensorProto.STRING, [1], [b"\xff"])
    opened = session(
        [helper.make_node("Constant", [], ["y"], value=value), helper.make_node("Identity", ["x"], ["z"])],
        [("x", "FP32", [1])],
        [("y", "BYTES", [1]), ("z", "FP32", [1])],
    )
    error = failure(opened, {"x": np.float32([1])}, ["y"])
    assert error.code is Code.INFERENCE_FAILED
    assert error.message.startswith("the model gave strings that are not UTF-8: ")


@pytest.mark.parametrize(
    ("shape", "array", "part"),
    [
        ([-1, 3], np.zeros((2, 4), np.float32), "Got invalid dimensions"),
        ([-1, 3], np.zeros(3, np.float32), "Invalid rank"),
        ([-1, 3], np.zeros((2, 3), np.float64), "Unexpected input data type"),
    ],
)
def test_values_that_the_engine_refuses_are_the_callers_fault(shape, array, part):
    error = failure(onnxruntime.open_session(identity("FP32", shape), ONE), {"x": array}, ["y"])
    assert error.code is Code.INVALID_TENSOR
    assert error.message.startswith("onnxruntime refuses the values: ")
    assert part in error.message
    assert "\n" not in error.message
    assert "[ONNXRuntimeError]" not in error.message


def test_what_fails_inside_the_engine_is_the_models_fault():
    opened = session(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", "FP32", [-1]), ("shape", "INT64", [-1])],
        [("y", "FP32", [-1, -1])],
    )
    error = failure(opened, {"x": np.zeros(5, np.float32), "shape": np.array([2, 2])}, ["y"])
    assert error.code is Code.INFERENCE_FAILED
    assert error.message.startswith("onnxruntime failed: ")


# What is not loaded.


@pytest.mark.parametrize(
    "content",
    [
        b"not a model",
        bytes(100),
        b"\x0a",
        protowire.encode_bytes(7, b"\x0a\x05ab"),
        protowire.encode_bytes(7, protowire.encode_bytes(5, b"\xff")),
    ],
)
def test_what_is_no_onnx_file_is_refused(content):
    assert refusal(content).message.startswith("the file is not an ONNX model: ")


def test_onnxruntimes_own_format_is_refused(tmp_path):
    options = engine.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    engine.InferenceSession(identity("FP32", [1]), options, providers=["CPUExecutionProvider"])
    refusal((tmp_path / "model.ort").read_bytes())


def test_what_was_looked_through_as_onnx_is_loaded_as_onnx():
    """The mark of onnxruntime's own format, inside a field that protobuf passes over."""
    onnxruntime.open_session(b"\x0a\x10\0\0ORTM" + bytes(10) + identity("FP32", [1]), ONE)


def test_an_empty_file_is_refused():
    assert "No graph was found" in refusal(b"").message


def test_a_file_cut_short_anywhere_is_refused_or_has_nothing_to_run():
    """Protobuf's own end is no field: only what is cut between two fields is still a message."""
    whole = identity("FP32", [-1, 2])
    onnxruntime.open_session(whole, ONE)
    boundaries = {end for _, _, _, end in protowire.fields(whole)}
    for size in range(1, len(whole)):
        if size not in boundaries:
            refusal(whole[:size])


@pytest.mark.parametrize("device", ["GPU", "cpu", "CUDA:0", "CPU.0"])
def test_an_unknown_device_is_refused(device):
    error = refusal(identity("FP32", [1]), SessionOptions(threads=1, device=device))
    assert error.message == f"device {device!r} is not one that onnxruntime can use here"
    assert error.hint == "leave options.device out, or use CPU"


def test_the_device_may_be_named():
    onnxruntime.open_session(identity("FP32", [1]), SessionOptions(threads=1, device="CPU"))


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (helper.make_node("NoSuchOperator", ["x"], ["y"]), "NoSuchOperator"),
        (helper.make_node("Identity", ["gone"], ["y"]), "gone"),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused_in_the_engines_words(node, problem):
    error = refusal(onnx_model([node], [("x", "FP32", [1])], [("y", "FP32", [1])]))
    assert error.message.startswith("onnxruntime does not load it: ")
    assert problem in error.message


def test_only_dense_tensors_are_served():
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [sequence],
    )
    error = refusal(_bytes(graph))
    assert error.message == "tensor 'y' is a seq(tensor(float))"
    assert error.hint == "only dense tensors can be served"


@pytest.mark.parametrize(("inputs", "loads"), [(["BYTES", "BF16"], False), (["BF16"], True), (["BYTES"], True)])
def test_strings_and_bfloat16_cannot_be_given_together(inputs, loads):
    """The engine's Python interface lacks it; a model is refused at once, not each of its requests."""
    nodes = [helper.make_node("Identity", [f"x{kind}"], [f"y{kind}"]) for kind in inputs]
    model = onnx_model(
        nodes, [(f"x{kind}", kind, [1]) for kind in inputs], [(f"y{kind}", kind, [1]) for kind in inputs]
    )
    if loads:
        onnxruntime.open_session(model, ONE)
    else:
        assert "can be given no strings" in refusal(model).message


def test_bfloat16_beside_strings_that_the_model_gives():
    value = helper.make_tensor("c", TensorProto.STRING, [1], [b"word"])
    opened = session(
        [helper.make_node("Constant", [], ["s"], value=value), helper.make_node("Identity", ["x"], ["y"])],
        [("x", "BF16", [1])],
        [("s", "BYTES", [1]), ("y", "BF16", [1])],
    )
    assert [array.tolist() for array in opened.run({"x": np.uint16([5])}, ["s", "y"])] == [[b"word"], [5]]


# Weights in other files.

ELSEWHERE = "weights.bin"


def external(name: str = "w", kind: int = TensorProto.FLOAT, dims: tuple[int, ...] = (1,)) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=ELSEWHERE)
    return tensor


def floats(*names: str) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in names]


def graph(nodes: list[Any], initializers: Any = (), **options: Any) -> onnx.GraphProto:
    return helper.make_graph(nodes, "test", floats("x"), floats("y"), list(initializers), **options)


def _bytes(graph: onnx.GraphProto, **options: Any) -> bytes:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **options).SerializeToString()


ADD = helper.make_node("Add", ["x", "w"], ["y"])
SAME = helper.make_node("Identity", ["x"], ["y"])


def constant_of(**value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["w"], **value)


def inner(*nodes: onnx.NodeProto, initializers: Any = (), inputs: Any = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "inner", list(inputs), floats("v"), list(initializers))


def in_if(branch: onnx.GraphProto) -> bytes:
    other = inner(helper.make_node("Identity", ["x"], ["v"]))
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    node = helper.make_node("If", ["c"], ["y"], then_branch=other, else_branch=branch)
    return _bytes(graph([condition, node]))


def in_loop() -> bytes:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            constant_of(value=external()),
            helper.make_node("Add", ["state", "w"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            *floats("state"),
        ],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []), *floats("next")],
    )
    return _bytes(graph([helper.make_node("Loop", ["", "", "x"], ["y"], body=body)]))


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(values, indices, [4])


VALUES = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
INDICES = helper.make_tensor("i", TensorProto.INT64, [1], [0])


def in_function() -> bytes:
    function = helper.make_function(
        "local",
        "AddW",
        ["x"],
        ["y"],
        [constant_of(value=external()), ADD],
        [helper.make_opsetid("", 17)],
    )
    call = helper.make_node("AddW", ["x"], ["y"], domain="local")
    return _bytes(graph([call]), functions=[function])


def in_function_default() -> bytes:
    """The default of a function's attribute."""
    function = helper.make_function(
        "local",
        "Same",
        ["x"],
        ["y"],
        [SAME],
        [helper.make_opsetid("", 17)],
        attribute_protos=[helper.make_attribute("weights", external())],
    )
    return _bytes(graph([helper.make_node("Same", ["x"], ["y"], domain="local")]), functions=[function])


def in_training() -> bytes:
    model = onnx.ModelProto.FromString(_bytes(graph([SAME])))
    model.training_info.add().algorithm.initializer.append(external())
    return model.SerializeToString()


def twice() -> bytes:
    """A graph may come in two parts, which protobuf merges: the second must be seen too."""
    return _bytes(graph([ADD])) + protowire.encode_bytes(
        7, onnx.GraphProto(initializer=[external()]).SerializeToString()
    )


HIDDEN = {
    "initializer": _bytes(graph([ADD], [external()])),
    "second initializer": _bytes(graph([ADD], [VALUES, external("unused")])),
    "attribute": _bytes(graph([constant_of(value=external()), ADD])),
    "list of tensors": _bytes(graph([SAME, helper.make_node("Identity", ["x"], ["z"], weights=[VALUES, external()])])),
    "initializer of a branch": in_if(inner(helper.make_node("Add", ["x", "w"], ["v"]), initializers=[external()])),
    "attribute in a branch": in_if(inner(helper.make_node("Constant", [], ["v"], value=external()))),
    "loop": in_loop(),
    "list of graphs": _bytes(
        graph([SAME, helper.make_node("Identity", ["x"], ["z"], bodies=[inner(SAME, initializers=[external()])])])
    ),
    "values of a sparse initializer": _bytes(graph([ADD], sparse_initializer=[sparse(external(), INDICES)])),
    "indices of a sparse initializer": _bytes(
        graph([ADD], sparse_initializer=[sparse(VALUES, external("w", TensorProto.INT64))])
    ),
    "sparse attribute": _bytes(graph([constant_of(sparse_value=sparse(external(), INDICES)), ADD])),
    "list of sparse tensors": _bytes(
        graph([SAME, helper.make_node("Identity", ["x"], ["z"], many=[sparse(external(), INDICES)])])
    ),
    "function": in_function(),
    "default in a function": in_function_default(),
    "training": in_training(),
    "second part of the graph": twice(),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_weights_in_another_file_are_refused_wherever_they_hide(place, tmp_path, monkeypatch):
    (tmp_path / ELSEWHERE).write_bytes(np.float32([1]).tobytes())
    monkeypatch.chdir(tmp_path)  # where the engine would find them
    error = refusal(HIDDEN[place])
    assert error.message.startswith("tensor '")
    assert error.message.endswith("' keeps its data in another file")
    assert "all its weights inside" in error.hint


@pytest.mark.parametrize("field", ["data_location", "external_data"])
def test_half_of_the_mark_is_enough(field):
    tensor = external()
    tensor.ClearField(field)
    assert refusal(_bytes(graph([ADD], [tensor]))).message == "tensor 'w' keeps its data in another file"


def test_weights_inside_are_loaded():
    opened = onnxruntime.open_session(_bytes(graph([ADD], [VALUES])), ONE)
    assert opened.run({"x": np.float32([2])}, ["y"])[0].tolist() == [3]


def test_every_field_of_onnx_that_holds_a_tensor_is_looked_into():
    """Read off onnx.proto itself, so that a newer one is not forgotten."""
    kinds = {f"{kind}Proto": kind for kind in onnxfile._MESSAGES} | {"TrainingInfoProto": "Training"}
    wanted = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name
    holds: dict[str, bool] = {}

    def tensors_in(message: Any) -> bool:
        if message.name not in holds:
            holds[message.name] = message.name == "TensorProto"
            for field in message.fields:
                if field.message_type and tensors_in(field.message_type):
                    holds[message.name] = True
        return holds[message.name]

    tensors_in(onnx.ModelProto.DESCRIPTOR)
    for name, message in wanted.items():
        tensors_in(message)
        fields = {
            field.number: kinds.get(field.message_type.name)
            for field in message.fields
            if field.message_type and tensors_in(field.message_type)
        }
        if name in kinds:
            assert onnxfile._MESSAGES[kinds[name]] == fields, name


# How it runs.


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_threads_asked_for_and_no_more(threads):
    before = len(list(Path("/proc/self/task").iterdir()))
    opened = onnxruntime.open_session(identity("FP32", [1]), SessionOptions(threads=threads))
    assert len(list(Path("/proc/self/task").iterdir())) == before + threads - 1
    options = opened._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)


def test_idle_threads_do_not_spin():
    options = onnxruntime.open_session(identity("FP32", [1]), ONE)._session.get_session_options()
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"


def test_it_runs_on_the_cpu():
    opened = onnxruntime.open_session(identity("FP32", [1]), ONE)
    assert opened._session.get_providers() == ["CPUExecutionProvider"]
