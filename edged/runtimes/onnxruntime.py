"""ONNX Runtime on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from edged.errors import Code, EdgedError
from edged.runtimes.base import Session, SessionOptions
from edged.runtimes.onnxfile import refuse_external_data
from edged.types import Datatype, TensorSpec

# TensorProto.DataType.BFLOAT16 of onnx.proto.
_ONNX_BFLOAT16 = 16

_DATATYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(bfloat16)": Datatype.BF16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}


def open_session(model: bytes, options: SessionOptions) -> Session:
    """Loads an ONNX model from its bytes; one whose weights lie in other files is refused."""
    refuse_external_data(model)
    wanted = onnxruntime.SessionOptions()
    wanted.intra_op_num_threads = options.threads
    wanted.inter_op_num_threads = 1
    # Its errors are raised too; what it writes of them has no bound, and waits for who reads the log.
    wanted.log_severity_level = 4
    wanted.add_session_config_entry("session.load_model_format", "ONNX")  # its own format was not looked through
    # A spinning pool burns the cores that other workers need.
    wanted.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if options.device not in ("", "CPU"):
        raise EdgedError(
            Code.LOAD_FAILED,
            f"device {options.device!r} is not one that onnxruntime can use here",
            "leave options.device out, or use CPU",
        )
    try:
        session = onnxruntime.InferenceSession(model, wanted, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EdgedError(Code.LOAD_FAILED, f"onnxruntime does not load it: {_words(error)}") from error
    return _OnnxSession(session)


class _OnnxSession:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self._datatypes = {spec.name: spec.datatype for spec in self.inputs}
        # numpy has no bfloat16: such tensors pass as OrtValues over uint16.
        self._has_bfloat16 = any(spec.datatype is Datatype.BF16 for spec in self.inputs + self.outputs)
        if self._has_bfloat16 and any(spec.datatype is Datatype.BYTES for spec in self.inputs):
            raise EdgedError(
                Code.LOAD_FAILED,
                "onnxruntime can be given no strings where the model has a BF16 tensor too",
                "cast the BF16 tensors to FP32 inside the model",
            )

    def let_go(self) -> None:
        """It keeps none."""

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        feed = {name: self._text(name, array) for name, array in inputs.items()}
        try:
            if self._has_bfloat16:
                return self._run_values(feed, outputs)
            return [_bytes(array) for array in self._session.run(list(outputs), feed)]
        except UnicodeDecodeError as error:  # of an output: the inputs were text
            raise EdgedError(Code.INFERENCE_FAILED, f"the model gave strings that are not UTF-8: {error}") from error
        except (state.InvalidArgument, ValueError) as error:
            raise EdgedError(Code.INVALID_TENSOR, f"onnxruntime refuses the values: {_words(error)}") from error
        except Exception as error:
            raise EdgedError(Code.INFERENCE_FAILED, f"onnxruntime failed: {_words(error)}") from error

    def _text(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """BYTES as the text that ONNX strings are."""
        if self._datatypes[name] is not Datatype.BYTES:
            return array
        out = np.empty(array.shape, object)
        flat = out.reshape(-1)
        for index, element in enumerate(array.reshape(-1)):
            try:
                flat[index] = element.decode()
            except UnicodeDecodeError as error:
                raise EdgedError(
                    Code.INVALID_TENSOR,
                    f"input {name!r}: element {index} is not UTF-8 text",
                    "onnxruntime takes text only in BYTES tensors",
                ) from error
        return out

    def _run_values(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
            if self._datatypes[name] is Datatype.BF16
            else onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        return [_array(value) for value in self._session.run_with_ort_values(list(outputs), values)]


def _array(value: onnxruntime.OrtValue) -> NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        return _bytes(value.numpy())
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, np.uint16).reshape(shape)


def _bytes(array: NDArray[Any]) -> NDArray[Any]:
    """Strings as the bytes that the protocol carries."""
    if array.dtype != object:
        return array
    out = np.empty(array.shape, object)
    out.reshape(-1)[:] = [element.encode() for element in array.reshape(-1)]
    return out


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DATATYPES:
        raise EdgedError(Code.LOAD_FAILED, f"tensor {node.name!r} is a {node.type}", "only dense tensors can be served")
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, _DATATYPES[node.type], shape)


def _words(error: Exception) -> str:
    """The engine's message on one line, without its own prefix."""
    text = " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")
    return text[:500] or type(error).__name__
