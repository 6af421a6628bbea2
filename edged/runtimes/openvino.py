"""OpenVINO, on ONNX files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from edged.errors import Code, EdgedError
from edged.runtimes.base import Session, SessionOptions
from edged.runtimes.onnxfile import refuse_external_data
from edged.types import Datatype, TensorSpec

_DATATYPES = {
    "boolean": Datatype.BOOL,
    "u8": Datatype.UINT8,
    "u16": Datatype.UINT16,
    "u32": Datatype.UINT32,
    "u64": Datatype.UINT64,
    "i8": Datatype.INT8,
    "i16": Datatype.INT16,
    "i32": Datatype.INT32,
    "i64": Datatype.INT64,
    "f16": Datatype.FP16,
    "bf16": Datatype.BF16,
    "f32": Datatype.FP32,
    "f64": Datatype.FP64,
}

# What the CPU plugin keeps of 64-bit integers.
_INT32 = np.iinfo(np.int32)

_PRECISIONS = {"": "", "fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def devices() -> list[str]:
    """What it finds to compute on, such as `CPU`, `GPU.0`, `NPU`: devices that have a driver."""
    return list(openvino.Core().available_devices)


def open_session(model: bytes, options: SessionOptions) -> Session:
    """Loads an ONNX model from its bytes; one whose weights lie in other files is refused."""
    return _OpenvinoSession(_compile(model, options))


def derive(model: bytes, options: SessionOptions) -> bytes:
    """The compiled model as `CompiledModel.export_model` gives it: for this version and instruction set, or device."""
    compiled = _compile(model, options)
    try:
        exported: bytes = compiled.export_model().getvalue()
    except Exception as error:
        raise EdgedError(
            Code.LOAD_FAILED,
            f"openvino does not export it: {_words(error)}",
            "leave `derived` out: not every device of openvino can",
        ) from error
    return exported


def open_derived(derived: bytes, options: SessionOptions) -> Session:
    """Loads what `derive` gave, by `Core.import_model`; threads may be others than when it was built."""
    config = _config(options)
    try:
        compiled = openvino.Core().import_model(io.BytesIO(derived), options.device or "CPU", config)
    except Exception as error:
        raise EdgedError(Code.LOAD_FAILED, f"openvino does not import what it built: {_words(error)}") from error
    return _OpenvinoSession(compiled)


def _compile(model: bytes, options: SessionOptions) -> Any:
    refuse_external_data(model)
    config = _config(options)
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(model, b""), options.device or "CPU", config)
    except Exception as error:
        raise EdgedError(Code.LOAD_FAILED, f"openvino does not load it: {_words(error)}") from error


def _config(options: SessionOptions) -> dict[str, Any]:
    if options.precision not in _PRECISIONS:
        raise EdgedError(
            Code.LOAD_FAILED,
            f"openvino cannot be told to compute in {options.precision}",
            "leave options.precision out",
        )
    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": options.threads,
        "NUM_STREAMS": "1",
        # Pinned threads of several workers would all sit on the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    if options.precision:
        config["INFERENCE_PRECISION_HINT"] = _PRECISIONS[options.precision]
    return config


class _OpenvinoSession:
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self._datatypes = {spec.name: spec.datatype for spec in self.inputs + self.outputs}

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        feed = {name: self._tensor(name, array) for name, array in inputs.items()}
        try:
            self._request.infer(feed, share_inputs=True)
            return [self._array(name) for name in outputs]
        except Exception as error:
            raise EdgedError(Code.INFERENCE_FAILED, f"openvino failed: {_words(error)}") from error

    def let_go(self) -> None:
        """A request keeps the inputs of its last inference."""
        self._request = self._compiled.create_infer_request()

    def _tensor(self, name: str, array: NDArray[Any]) -> Any:
        datatype = self._datatypes[name]
        if datatype is Datatype.BF16:
            return openvino.Tensor(array, list(array.shape), openvino.Type.bf16)
        is_long = datatype in (Datatype.INT64, Datatype.UINT64) and array.size > 0
        if is_long and (array.max() > _INT32.max or array.min() < _INT32.min):
            # The CPU plugin computes in 32 bits and would answer with other numbers, silently.
            raise EdgedError(
                Code.INVALID_TENSOR,
                f"input {name!r} has an element that takes more than 32 bits, which openvino does not compute with",
                "use a variant of onnxruntime for such numbers",
            )
        return openvino.Tensor(array, shared_memory=True)

    def _array(self, name: str) -> NDArray[Any]:
        """A copy: the next inference writes into the same memory."""
        data = np.array(self._request.get_tensor(name).data)
        return data.view(np.uint16) if self._datatypes[name] is Datatype.BF16 else data


def _spec(port: Any) -> TensorSpec:
    names = port.get_names()
    kind = port.get_element_type().get_type_name()
    name = min(names) if names else ""
    if kind not in _DATATYPES:
        raise EdgedError(Code.LOAD_FAILED, f"tensor {name!r} is of type {kind}", "openvino serves none such here")
    shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.partial_shape)
    return TensorSpec(name, _DATATYPES[kind], shape)


def _words(error: Exception) -> str:
    """The engine's message on one line, cut short."""
    return " ".join(str(error).split())[:500] or type(error).__name__
