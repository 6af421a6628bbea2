"""LiteRT behind the port, on the CPU. With an Edge TPU, in workers: tests/unit/worker/test_edgetpu_worker.py."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tflites import EDGETPU_OPERATOR, compiled, doubling, tflite_model

from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES, Session, SessionOptions
from edged.runtimes.tflitefile import is_compiled
from edged.types import Datatype, TensorSpec
from edged.worker.codec import DTYPES

if ENGINES["edgetpu"].version() is None:
    pytest.skip("ai-edge-litert is not installed", allow_module_level=True)

from edged.runtimes import edgetpu

CPU = SessionOptions(threads=1, device="CPU")
SERVED = [each for each in Datatype if each not in (Datatype.BF16, Datatype.BYTES)]


def opened(model: bytes) -> Session:
    return edgetpu.open_session(model, CPU)


def reshaping(datatype: str) -> bytes:
    """The six elements of x as y, of any datatype."""
    return tflite_model("RESHAPE", [("x", datatype, [2, 3])], [("y", datatype, [3, 2])])


def refusal(model: bytes, options: SessionOptions = CPU) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        edgetpu.open_session(model, options)
    assert caught.value.code is Code.LOAD_FAILED
    return caught.value


def failure(session: Session, inputs: dict[str, Any]) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        session.run(inputs, ["y"])
    return caught.value


# Tensors.


@pytest.mark.parametrize("datatype", SERVED)
def test_every_datatype_that_it_serves_passes(datatype: Datatype):
    session = opened(reshaping(datatype))
    assert session.inputs == (TensorSpec("x", datatype, (2, 3)),)
    assert session.outputs == (TensorSpec("y", datatype, (3, 2)),)
    bits = bytes([1, 0, 0, 1, 1, 0]) if datatype is Datatype.BOOL else bytes(range(0xD0, 0x100))[: 6 * datatype.size]
    sent = np.frombuffer(bits, DTYPES[datatype]).reshape(2, 3)
    (found,) = session.run({"x": sent}, ["y"])
    assert (found.dtype, found.shape, found.tobytes()) == (DTYPES[datatype], (3, 2), bits)


@pytest.mark.parametrize(("datatype", "told"), [("BYTES", "bytes_"), ("COMPLEX64", "complex64")])
def test_what_it_does_not_serve_is_told(datatype: str, told: str):
    error = refusal(reshaping(datatype))
    assert (error.message, error.hint) == (f"tensor 'x' is of type {told}", "litert serves none such here")


def test_a_type_that_numpy_has_not_is_refused():
    refusal(reshaping("BF16"))


def test_quantised_values_pass_as_they_are():
    """Real values are 0.5 · quantised: 1 + 1 = 2 is 2 + 2 = 4, and what is too large stays at the end of its range."""
    (found,) = opened(doubling([1, 4], "INT8", scale=0.5)).run({"x": np.int8([[2, -3, 100, -128]])}, ["y"])
    assert found.tolist() == [[4, -6, 127, -128]]


def test_a_free_dimension_follows_the_request():
    session = opened(doubling([-1, 3]))
    assert session.inputs == (TensorSpec("x", Datatype.FP32, (-1, 3)),)
    assert session.outputs == (TensorSpec("y", Datatype.FP32, (-1, 3)),)
    for rows in (1, 5, 5, 2, 64, 1):
        sent = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        (found,) = session.run({"x": sent}, ["y"])
        assert found.tolist() == (sent + sent).tolist()


def test_an_answer_outlives_what_it_was_made_of():
    session = opened(doubling([4]))
    sent = np.ones(4, np.float32)
    (found,) = session.run({"x": sent}, ["y"])
    sent[:] = 0
    session.run({"x": sent}, ["y"])
    del session
    assert found.tolist() == [2, 2, 2, 2]


def test_inputs_may_be_read_only():
    sent = np.ones(4, np.float32)
    sent.setflags(write=False)
    assert opened(doubling([4])).run({"x": sent}, ["y"])[0].tolist() == [2, 2, 2, 2]


def test_outputs_come_as_asked_for():
    outputs = [("first", "FP32", [1, 2]), ("second", "FP32", [1, 2])]
    model = tflite_model("SPLIT", [("axis", "INT32", []), ("x", "FP32", [1, 4])], outputs, splits=2)
    session = opened(model)
    given = {"axis": np.array(1, np.int32), "x": np.float32([[1, 2, 3, 4]])}
    for asked, expected in ((["second"], [[[3, 4]]]), (["second", "first"], [[[3, 4]], [[1, 2]]])):
        assert [array.tolist() for array in session.run(given, asked)] == expected


@pytest.mark.parametrize(
    "sent",
    [
        np.zeros((2, 4), np.float32),
        np.zeros(3, np.float32),
        np.zeros((1, 3), np.float64),
        np.zeros((2, 3), np.int8),
    ],
)
def test_values_that_do_not_fit_are_the_callers_fault(sent: np.ndarray):
    session = opened(doubling([-1, 3]))
    error = failure(session, {"x": sent})
    assert error.code is Code.INVALID_TENSOR
    assert error.message.startswith("litert refuses the values: ")
    assert "\n" not in error.message
    for rows in (2, 1):
        assert session.run({"x": np.ones((rows, 3), np.float32)}, ["y"])[0].tolist() == [[2.0] * 3] * rows


@pytest.mark.parametrize("operator", ["SOFTMAX", "LOG_SOFTMAX"])
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (2**31 - 1, 0)])
def test_no_values_are_the_callers_fault(operator: str, shape: tuple[int, int]):
    """The engine itself would crash."""
    session = opened(tflite_model(operator, [("x", "FP32", [-1, -1])], [("y", "FP32", [-1, -1])]))
    error = failure(session, {"x": np.zeros(shape, np.float32)})
    assert error.code is Code.INVALID_TENSOR
    assert error.message == f"input 'x' of shape {list(shape)} has no values, which litert cannot compute with"
    assert session.run({"x": np.zeros((2, 1), np.float32)}, ["y"])[0].shape == (2, 1)


def test_shapes_that_do_not_go_together_are_the_callers_fault():
    inputs = [("x", "FP32", [-1]), ("z", "FP32", [-1])]
    session = opened(tflite_model("ADD", inputs, [("y", "FP32", [-1])]))
    for size in (1, 3):  # as large as it began, too
        assert failure(session, {"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)}).code is Code.INVALID_TENSOR
        both = {name: np.ones(size, np.float32) for name in "xz"}
        assert session.run(both, ["y"])[0].tolist() == [2.0] * size


def test_what_fails_inside_the_engine_is_the_models_fault():
    """An index out of its range."""
    inputs = [("x", "FP32", [2]), ("at", "INT32", [1])]
    session = opened(tflite_model("GATHER", inputs, [("y", "FP32", [1])]))
    assert session.run({"x": np.float32([7, 8]), "at": np.int32([1])}, ["y"])[0].tolist() == [8]
    error = failure(session, {"x": np.float32([7, 8]), "at": np.int32([5])})
    assert error.code is Code.INFERENCE_FAILED
    assert error.message.startswith("litert failed: ")


def test_a_failure_is_told_in_its_own_words_alone():
    """LiteRT puts those of all failures before it in front."""
    session = opened(doubling([1, 4]))
    alone = {size: failure(opened(doubling([1, 4])), {"x": np.ones((1, size), np.float32)}).message for size in (5, 6)}
    assert alone[5] != alone[6]
    for size in (5, 6, 5, 5):
        assert failure(session, {"x": np.ones((1, size), np.float32)}).message == alone[size]


def test_what_its_callers_see_to_fail_does_not_pile_up():
    """Two free dimensions that do not fit each other, as often as anybody likes."""
    inputs = [("x", "FP32", [1, -1]), ("z", "FP32", [1, -1])]
    session = opened(tflite_model("ADD", inputs, [("y", "FP32", [1, -1])]))
    wrong = {"x": np.ones((1, 2), np.float32), "z": np.ones((1, 3), np.float32)}
    told, longest = set(), 0
    for _ in range(2000):
        error = failure(session, wrong)
        told.add(error.message)
        longest = max(longest, len(str(error.__cause__)))
    assert len(told) == 1
    (words,) = told
    assert longest < edgetpu._MOST_SAID + 2 * len(words)
    for size in (1, 3):
        assert session.run({name: np.ones((1, size), np.float32) for name in "xz"}, ["y"])[0].tolist() == [[2.0] * size]


def test_two_interpreters_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch):
    """There may be room for one."""
    held: list[weakref.ref[Any]] = []
    real = edgetpu.Interpreter

    def interpreter(**options: Any) -> Any:
        assert not [each for each in held if each() is not None]
        made = real(**options)
        held.append(weakref.ref(made))
        return made

    monkeypatch.setattr(edgetpu, "Interpreter", interpreter)
    monkeypatch.setattr(edgetpu, "_MOST_SAID", 0)
    session = opened(doubling([1, 4]))
    for _ in range(3):
        failure(session, {"x": np.ones((1, 5), np.float32)})
    assert len(held) == 3


def test_one_that_finds_no_room_for_another_interpreter_ends_its_process(monkeypatch: pytest.MonkeyPatch):
    session = opened(doubling([1, 4]))
    monkeypatch.setattr(edgetpu, "_MOST_SAID", 0)
    failure(session, {"x": np.ones((1, 5), np.float32)})

    def interpreter(**_: Any) -> Any:
        raise RuntimeError("no room")

    monkeypatch.setattr(edgetpu, "Interpreter", interpreter)
    with pytest.raises(SystemExit, match="litert does not load the model again: no room"):
        session.run({"x": np.ones((1, 4), np.float32)}, ["y"])


# What is not loaded.


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"not a model", bytes(100), b"\x08\0\0\0TFL3", b"\xff" * 4 + b"TFL3"]
)
def test_what_is_no_tflite_file_is_refused(content: bytes):
    error = refusal(content)
    assert error.message == "the file is not a TFLite model"
    assert error.hint == "name a .tflite file in the variant's `file`"


def test_an_onnx_file_is_refused(onnx_file: bytes):
    assert refusal(onnx_file).message == "the file is not a TFLite model"


@pytest.fixture
def onnx_file() -> bytes:
    from onnx import helper
    from support.bundles import onnx_model

    return onnx_model([helper.make_node("Identity", ["x"], ["y"])], [("x", "FP32", [1])], [("y", "FP32", [1])])


def test_a_file_cut_short_anywhere_is_refused():
    whole = doubling([2])
    opened(whole)
    for size in range(len(whole) - 4):
        refusal(whole[:size])


def test_a_vtable_before_the_file_is_refused():
    """A place before the beginning must not be taken for one before the end."""
    whole = bytearray(doubling([2]))
    (root,) = struct.unpack_from("<I", whole)
    struct.pack_into("<i", whole, root, root + 4)
    assert refusal(bytes(whole)).message == "the file is not a TFLite model"


@given(st.sampled_from([doubling([2]), compiled(), doubling([2], external="w")]), st.data())
def test_a_damaged_file_is_refused_or_read(whole: bytes, data: st.DataObject):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EdgedError):
        assert is_compiled(bytes(damaged)) in (True, False)


def test_weights_in_another_file_are_refused():
    error = refusal(doubling([2], external="weights.bin"))
    assert error.message == "the model says that weights lie in another file"
    assert error.hint == "convert it with all its weights inside"


def test_an_operator_that_nobody_knows_is_told_in_the_engines_words():
    error = refusal(tflite_model("somebodys", [("x", "FP32", [1])], [("y", "FP32", [1])]))
    assert error.message.startswith("litert does not load it: ")
    assert "custom op: somebodys" in error.message


def test_inputs_of_one_name_are_refused():
    model = tflite_model("ADD", [("x", "FP32", [2]), ("x", "FP32", [2])], [("y", "FP32", [2])])
    assert refusal(model).message == "two tensors of the model have one name"


@pytest.mark.parametrize(
    "device",
    ["cpu", "GPU", "tpu", "usb:", "usb:-1", "pci:x", "usb:0 ", "0", ":", "usb:1234", "usb:0\n", "usb:01", ":00"],
)
def test_an_unknown_device_is_refused(device: str):
    error = refusal(doubling([2]), SessionOptions(threads=1, device=device))
    assert error.message == f"device {device!r} is not one that edgetpu can use"
    assert "or use usb, pci, usb:N, pci:N, :N (the N-th, from 0) or CPU" in error.hint


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_is_refused(precision: str):
    error = refusal(doubling([2]), SessionOptions(threads=1, device="CPU", precision=precision))
    assert error.message == f"litert cannot be told to compute in {precision}"


@pytest.mark.parametrize("device", ["", "usb", "pci", ":0", "usb:0", "pci:12"])
def test_what_was_not_compiled_for_it_is_not_run_on_an_edge_tpu(device: str):
    """It would run on the CPU, and nobody would know."""
    error = refusal(doubling([2]), SessionOptions(threads=1, device=device))
    assert error.message == "nothing of the model is compiled for the Edge TPU"
    assert error.hint == 'compile it with edgetpu_compiler, or set options.device = "CPU"'


def test_what_was_compiled_for_it_is_not_run_on_the_cpu():
    assert refusal(compiled()).message == "the model is compiled for the Edge TPU, and options.device is CPU"


def test_a_package_that_would_copy_libraries_is_not_imported(tmp_path: Path):
    (tmp_path / "ai_edge_litert_sdk_intel.py").write_text("print('imported')")
    said = {}
    for first in ("", "from edged.runtimes.base import load_runtime; load_runtime('edgetpu'); "):
        done = subprocess.run(
            [sys.executable, "-c", f"{first}import ai_edge_litert.interpreter"],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        said[first] = done.stdout
    assert list(said.values()) == ["imported\n", ""]


def test_compiled_models_are_known_by_their_operator():
    for operator in (EDGETPU_OPERATOR, "somebodys", f"{EDGETPU_OPERATOR}2", EDGETPU_OPERATOR[:-1], ""):
        model = tflite_model(operator, [("x", "FP32", [1])], [("y", "FP32", [1])])
        assert is_compiled(model) == (operator == EDGETPU_OPERATOR)
    assert not is_compiled(doubling([2]))
