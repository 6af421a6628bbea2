"""LiteRT on TFLite files: those compiled for the Edge TPU by Google's libedgetpu, others on the CPU.

`options.device` says where: nothing for any Edge TPU, or what libedgetpu takes as its option "device"
(tflite/edgetpu_delegate_for_custom_op_tflite_plugin.cc there), or `CPU`. Quantised tensors pass as they are.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Delegate, Interpreter, load_delegate
from numpy.typing import NDArray

from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES, Session, SessionOptions
from edged.runtimes.tflitefile import is_compiled
from edged.types import Datatype, TensorSpec

_DATATYPES = {
    np.bool_: Datatype.BOOL,
    np.uint8: Datatype.UINT8,
    np.uint16: Datatype.UINT16,
    np.uint32: Datatype.UINT32,
    np.uint64: Datatype.UINT64,
    np.int8: Datatype.INT8,
    np.int16: Datatype.INT16,
    np.int32: Datatype.INT32,
    np.int64: Datatype.INT64,
    np.float16: Datatype.FP16,
    np.float32: Datatype.FP32,
    np.float64: Datatype.FP64,
}

(_LIBRARY,) = ENGINES["edgetpu"].libraries
_CPU = ENGINES["edgetpu"].cpu
_HINT = (
    f"compile it for the version of {_LIBRARY} here (edgetpu_compiler --min_runtime_version); edged's log has its words"
)
_LIBRARY_HINT = f"install {_LIBRARY} in the image's base, built for TensorFlow 2.16 or later: bootc/overlays/README.md"
_EDGE_TPU = re.compile(r"(usb|pci)?(:(0|[1-9][0-9]{0,2}))?")

# An interpreter that has said so much of what failed makes way for another: a few hundred failures.
_MOST_SAID = 2**16
_MOST_TOLD = 500


def open_session(model: bytes, options: SessionOptions) -> Session:
    """Loads a TFLite model from its bytes; one whose weights lie in other files is refused."""
    if options.precision:
        raise EdgedError(
            Code.LOAD_FAILED,
            f"litert cannot be told to compute in {options.precision}",
            "leave options.precision out: a TFLite model is of one precision",
        )
    if options.device != _CPU and not _EDGE_TPU.fullmatch(options.device):
        raise EdgedError(
            Code.LOAD_FAILED,
            f"device {options.device!r} is not one that edgetpu can use",
            "leave options.device out for any Edge TPU, or use usb, pci, usb:N, pci:N, :N (the N-th, from 0) or CPU",
        )
    on_tpu = options.device != _CPU
    if is_compiled(model) != on_tpu:
        raise _elsewhere(on_tpu=on_tpu)
    delegates = [_edge_tpu(options.device)] if on_tpu else []

    def begin() -> Interpreter:
        interpreter = Interpreter(model_content=model, num_threads=options.threads, experimental_delegates=delegates)
        interpreter.allocate_tensors()
        return interpreter

    try:
        return _LitertSession(begin)
    except (RuntimeError, ValueError) as error:
        raise EdgedError(
            Code.LOAD_FAILED, f"litert does not load it: {_words(error)}", _HINT if on_tpu else ""
        ) from error


def _elsewhere(*, on_tpu: bool) -> EdgedError:
    if on_tpu:  # it would run on the CPU, and nobody would know
        return EdgedError(
            Code.LOAD_FAILED,
            "nothing of the model is compiled for the Edge TPU",
            'compile it with edgetpu_compiler, or set options.device = "CPU"',
        )
    return EdgedError(
        Code.LOAD_FAILED,
        "the model is compiled for the Edge TPU, and options.device is CPU",
        "leave options.device out, or name the file that edgetpu_compiler was given",
    )


def _edge_tpu(device: str) -> Delegate:
    """An Edge TPU, opened. It is this process's alone until it ends, by its driver or by the claim of its interface.

    Raises EdgedError: incompatible_runtime without a library that can be used, device_unavailable.
    """
    wanted = f"the Edge TPU {device}" if device else "an Edge TPU"
    try:
        ctypes.CDLL(_LIBRARY)  # first by itself: a Delegate that finds no library complains once more as it goes
    except OSError as error:
        raise EdgedError(
            Code.INCOMPATIBLE_RUNTIME, f"{wanted} cannot be used: {_words(error)}", _LIBRARY_HINT
        ) from error
    try:
        return load_delegate(_LIBRARY, {"device": device} if device else {})
    except AttributeError as error:
        raise EdgedError(
            Code.INCOMPATIBLE_RUNTIME, f"{wanted} cannot be used: {_words(error)}", _LIBRARY_HINT
        ) from error
    except ValueError as error:  # libedgetpu says no more than that it has none: it may be taken, or away for a moment
        raise EdgedError(
            Code.DEVICE_UNAVAILABLE,
            f"{wanted} cannot be opened by {_LIBRARY}: {_words(error)}",
            "see that it is there (`edgectl doctor`) and that no other model has it: one process at a time can",
        ) from error


class _LitertSession:
    def __init__(self, begin: Callable[[], Interpreter]) -> None:
        """`begin`: gives an interpreter that has its tensors; again, once the one before has gone."""
        self._begin = begin
        self._interpreter = interpreter = begin()
        self._said = ""
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = tuple(map(_spec, inputs))
        self.outputs = tuple(map(_spec, outputs))
        self._inputs = {tensor["name"]: tensor["index"] for tensor in inputs}
        self._outputs = {tensor["name"]: tensor["index"] for tensor in outputs}
        for names, tensors in ((self._inputs, inputs), (self._outputs, outputs)):
            if len(names) != len(tensors):
                raise EdgedError(Code.LOAD_FAILED, "two tensors of the model have one name", "convert it with others")
        self._shapes = {tensor["name"]: tuple(map(int, tensor["shape"])) for tensor in inputs}

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        for name, array in inputs.items():
            if not array.size:  # some operators of LiteRT 2.3 crash on it: SOFTMAX, LOG_SOFTMAX
                text = f"input {name!r} of shape {list(array.shape)} has no values, which litert cannot compute with"
                raise EdgedError(Code.INVALID_TENSOR, text)
        if len(self._said) > _MOST_SAID:
            self._begin_anew()
        try:
            self._resize({name: array.shape for name, array in inputs.items()})
            for name, array in inputs.items():
                self._interpreter.set_tensor(self._inputs[name], array)
        except (RuntimeError, ValueError) as error:
            raise self._failed(Code.INVALID_TENSOR, "litert refuses the values", error) from error.with_traceback(None)
        try:
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(self._outputs[name]) for name in outputs]
        except (RuntimeError, ValueError) as error:
            raise self._failed(Code.INFERENCE_FAILED, "litert failed", error) from error.with_traceback(None)

    def let_go(self) -> None:
        """It keeps none: tensors are copied in and out."""

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Only what the model leaves open changes; all tensors are laid out anew then."""
        if shapes == self._shapes:
            return
        self._shapes = {}  # where it fails half way, the next run begins anew
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[name], shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def _failed(self, code: Code, what: str, error: RuntimeError | ValueError) -> EdgedError:
        """In what the engine says of this failure. Its frames are not to be kept: they hold the interpreter.

        LiteRT 2.3 keeps all that an interpreter has said, and each RuntimeError begins with what was said before it
        (PythonErrorReporter::message in tflite/python/interpreter_wrapper clears its stream's state and not its text).
        """
        text, since = str(error), 0
        if isinstance(error, RuntimeError) and text.startswith(self._said):
            since = len(self._said) if text != self._said else 0
            self._said = text
        return EdgedError(code, f"{what}: {_words(error, since)}")

    def _begin_anew(self) -> None:
        """With an interpreter that has said nothing; the one before goes first, since there may be room for one."""
        del self._interpreter
        try:
            self._interpreter = self._begin()
        except (RuntimeError, ValueError) as error:
            raise SystemExit(f"litert does not load the model again: {_words(error)}") from error
        self._shapes, self._said = {}, ""


def _spec(tensor: Mapping[str, Any]) -> TensorSpec:
    name, kind = tensor["name"], tensor["dtype"]
    if kind not in _DATATYPES:
        raise EdgedError(
            Code.LOAD_FAILED, f"tensor {name!r} is of type {kind.__name__}", "litert serves none such here"
        )
    return TensorSpec(name, _DATATYPES[kind], tuple(map(int, tensor["shape_signature"])))


def _words(error: Exception, since: int = 0) -> str:
    """The engine's message on one line, from that character on, cut short."""
    return " ".join(str(error)[since : since + _MOST_TOLD].split()) or type(error).__name__
