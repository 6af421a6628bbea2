"""TensorRT, on ONNX files: a plan is built of one on the device, for its very GPU, and run there.

Written for TensorRT 8.6, 10 and 11 by their Python API (docs.nvidia.com/deeplearning/tensorrt) and the sources of the
bindings (github.com/NVIDIA/TensorRT, python/src), with the tensors' names alone, as all three have it. Without a driver
TensorRT may crash the process, so that the driver is asked first.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorrt as trt
from numpy.typing import DTypeLike, NDArray

from edged.errors import Code, EdgedError
from edged.runtimes.base import Session, SessionOptions
from edged.runtimes.cuda import CudaError, Gpu, open_gpu, short_of_memory
from edged.runtimes.onnxfile import refuse_external_data
from edged.types import Datatype, TensorSpec

# By the names of tensorrt.DataType; which of them there are differs from version to version. BF16 has no numpy type,
# its bits pass as uint16. TensorRT's own table, tensorrt.nptype, has no BF16 and fails beside some versions of numpy.
_DATATYPES: dict[str, tuple[Datatype, DTypeLike]] = {
    "BOOL": (Datatype.BOOL, np.bool_),
    "UINT8": (Datatype.UINT8, np.uint8),
    "INT8": (Datatype.INT8, np.int8),
    "INT32": (Datatype.INT32, np.int32),
    "INT64": (Datatype.INT64, np.int64),
    "HALF": (Datatype.FP16, np.float16),
    "BF16": (Datatype.BF16, np.uint16),
    "FLOAT": (Datatype.FP32, np.float32),
}

# By the precision of the options, the flag that lets TensorRT compute in it whatever the types of the file are.
_FLAGS = {"fp16": "FP16", "bf16": "BF16"}

# Where it is not told to keep to the types of the file, a type that stands in one needs its flag too.
_FLAGS_OF_TYPES = {"HALF": "FP16", "BF16": "BF16", "INT8": "INT8"}

_DEVICE = re.compile(r"(?:GPU(?:\.([0-9]{1,3}))?)?", re.ASCII)


class _Log(trt.ILogger):  # type: ignore[misc] # it has no types
    """Keeps what TensorRT says of errors: its calls say only that there was one. TensorRT takes one in a process."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=5)

    def log(self, severity: Any, msg: str) -> None:
        """Called by TensorRT, in any thread."""
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self._errors.append(" ".join(msg.split()))

    def words(self, without: str = "it does not say why") -> str:
        """What was said since this was last asked, or else what is given."""
        said = "; ".join(self._errors)[:500]
        self._errors.clear()
        return said or without


_log = _Log()


def open_session(model: bytes, options: SessionOptions) -> Session:
    """Builds a plan of an ONNX model and loads that; one whose weights lie in other files is refused."""
    gpu = _gpu(options)
    return _load(_build(model, options, gpu), gpu)


def derive(model: bytes, options: SessionOptions) -> bytes:
    """The plan, as `Builder.build_serialized_network` gives it: for this version, and for GPUs of this kind."""
    return _build(model, options, _gpu(options))


def open_derived(derived: bytes, options: SessionOptions) -> Session:
    """Loads a plan, as `Runtime.deserialize_cuda_engine` does."""
    return _load(derived, _gpu(options))


def _gpu(options: SessionOptions) -> Gpu:
    found = _DEVICE.fullmatch(options.device)
    if not found:
        raise EdgedError(
            Code.LOAD_FAILED,
            f"device {options.device!r} is not one that tensorrt can use here",
            "leave options.device out, or use GPU, or GPU.1 for the second one",
        )
    return open_gpu(int(found[1] or 0))


def _build(model: bytes, options: SessionOptions, gpu: Gpu) -> bytes:
    refuse_external_data(model)
    try:
        _begin()
        builder = trt.Builder(_log)
        network = builder.create_network(_network_flags(options))
        parser = trt.OnnxParser(network, _log)
        if not parser.parse(model):
            raise EdgedError(Code.LOAD_FAILED, f"tensorrt cannot read the model: {_complaints(parser)}")
        config = builder.create_builder_config()
        _choose_precision(network, config, options)
        _choose_shapes(builder, network, config, options)
        # Else it tries what takes all of the memory; on a Jetson that is everybody's.
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, gpu.free_bytes() // 2)
        if options.threads:
            builder.max_threads = options.threads
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise _refused("tensorrt builds no plan of it")
        return bytes(plan)
    except EdgedError:
        raise
    except Exception as error:  # bindings raise what they like, and CudaError is one of them
        raise EdgedError(Code.LOAD_FAILED, f"tensorrt does not build it: {_words(error)}") from error


def _begin() -> None:
    """Forgets what was said before, and lets models have the operators that TensorRT brings as plugins."""
    _log.words()
    trt.init_libnvinfer_plugins(_log, "")


def _network_flags(options: SessionOptions) -> int:
    """TensorRT 10 computes in the types of the file only where it is told to, 11 always, 8 never.

    8 has to be told that the batch is an axis, which 10 takes for granted.
    """
    kinds = trt.NetworkDefinitionCreationFlag
    if not hasattr(kinds, "STRONGLY_TYPED"):
        return 1 << int(kinds.EXPLICIT_BATCH)
    return 0 if options.precision in _FLAGS else 1 << int(kinds.STRONGLY_TYPED)


def _choose_precision(network: Any, config: Any, options: SessionOptions) -> None:
    """Raises EdgedError (load_failed) where this version, or this file, does not have that choice."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    flags = set()
    if flag := _FLAGS.get(options.precision):
        if not hasattr(trt.BuilderFlag, flag):
            raise EdgedError(
                Code.LOAD_FAILED,
                f"tensorrt {trt.__version__} cannot be told to compute in {options.precision}",
                "convert the model to it, and leave options.precision out",
            )
        flags.add(flag)
    elif options.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # which it would take for FP32 where the GPU has it
    elif options.precision == "int8":
        quantizing = (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE)
        if not any(layer.type in quantizing for layer in layers):
            raise EdgedError(
                Code.LOAD_FAILED,
                "the model is not quantized: it has no QuantizeLinear or DequantizeLinear",
                "quantize it before it is published, or leave options.precision out",
            )
    if flags or not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        types = {layer.get_output(index).dtype.name for layer in layers for index in range(layer.num_outputs)}
        flags |= {_FLAGS_OF_TYPES[name] for name in types & _FLAGS_OF_TYPES.keys()}
    for flag in sorted(flags):
        config.set_flag(getattr(trt.BuilderFlag, flag))


def _choose_shapes(builder: Any, network: Any, config: Any, options: SessionOptions) -> None:
    """For what the model leaves open, the sizes that the manifest declares. It is at its best with full batches."""
    profile = builder.create_optimization_profile()
    are_open = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise _takes_shapes(tensor.name)
        shape = tuple(tensor.shape)
        if -1 in shape:
            least, most = _range(tensor.name, shape, options)
            profile.set_shape(tensor.name, least, most, most)
            are_open = True
    if are_open and config.add_optimization_profile(profile) < 0:
        raise _refused("tensorrt does not take the sizes of the inputs")


def _range(name: str, shape: Sequence[int], options: SessionOptions) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The least and the largest shape of an input."""
    declared = options.shapes.get(name, ())
    if len(declared) != len(shape):
        declared = (-1,) * len(shape)  # that it is another is told when the signatures are compared
    least, most = list(shape), list(shape)
    for axis, (own, wanted) in enumerate(zip(shape, declared, strict=True)):
        if own != -1:
            continue
        if wanted != -1:
            least[axis] = most[axis] = wanted
        elif axis == 0 and options.max_batch_size:
            least[axis], most[axis] = 1, options.max_batch_size
        else:
            raise EdgedError(
                Code.LOAD_FAILED,
                f"axis {axis} of input {name!r} is open, and tensorrt builds for sizes that are known",
                "declare its size in the manifest's inputs; only axis 0 may be open, as a batch of max_batch_size",
            )
    return tuple(least), tuple(most)


def _load(plan: bytes, gpu: Gpu) -> Session:
    try:
        _begin()
        engine = trt.Runtime(_log).deserialize_cuda_engine(plan)
        if engine is None:
            raise _refused("tensorrt does not take the plan")
        return _TensorrtSession(engine, gpu)
    except EdgedError as error:
        if error.code in (Code.INVALID_TENSOR, Code.INFERENCE_FAILED):  # of its own largest shapes
            raise EdgedError(Code.LOAD_FAILED, error.message) from error
        raise
    except CudaError as error:
        if error.is_want_of_memory:
            raise short_of_memory(f"for the model's inputs and outputs: {error}") from error
        raise EdgedError(Code.LOAD_FAILED, f"the GPU does not load it: {error}") from error
    except Exception as error:
        raise EdgedError(Code.LOAD_FAILED, f"tensorrt does not load it: {_words(error)}") from error


class _Tensor:
    """An input or output: what it is, and room on the GPU that is kept from run to run."""

    def __init__(self, engine: Any, name: str, gpu: Gpu) -> None:
        self.name = name
        self.is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        kind = engine.get_tensor_dtype(name).name
        if kind not in _DATATYPES:
            raise EdgedError(Code.LOAD_FAILED, f"tensor {name!r} is of type {kind}", "tensorrt serves none such here")
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            raise _takes_shapes(name)
        datatype, self.dtype = _DATATYPES[kind]
        self.spec = TensorSpec(name, datatype, tuple(engine.get_tensor_shape(name)))
        self._gpu = gpu
        self._address = self._size = 0

    def room(self, shape: Sequence[int]) -> int:
        """The address of room for that shape. Raises CudaError."""
        size = max(int(np.prod(shape, dtype=np.int64)) * self.spec.datatype.size, 1)
        if size > self._size:
            if self._address:
                self._gpu.release(self._address)
                self._address = self._size = 0
            self._address = self._gpu.allocate(size)
            self._size = size
        return self._address


class _TensorrtSession:
    def __init__(self, engine: Any, gpu: Gpu) -> None:
        self._gpu = gpu
        self._context = engine.create_execution_context()
        if self._context is None:
            raise _refused("tensorrt cannot begin to run it")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._tensors = {name: _Tensor(engine, name, gpu) for name in names}
        self._outputs = [tensor for tensor in self._tensors.values() if not tensor.is_input]
        self.inputs = tuple(tensor.spec for tensor in self._tensors.values() if tensor.is_input)
        self.outputs = tuple(tensor.spec for tensor in self._outputs)
        self._take_room(engine)

    def _take_room(self, engine: Any) -> None:
        """Room for the largest batch, so that a want of memory shows now.

        An output whose size depends on values, and not on the shapes of the inputs, is refused: how large it can
        become is not known before it is there.
        """
        for spec in self.inputs:
            most = spec.shape
            if -1 in most:  # the third of the least, the best and the largest
                most = tuple(engine.get_tensor_profile_shape(spec.name, 0)[2])
            self._set_shape(spec.name, most)
            self._tensors[spec.name].room(most)
        for tensor, shape in self._shapes_of_outputs():
            if -1 in shape:
                raise EdgedError(
                    Code.LOAD_FAILED,
                    f"the shape of output {tensor.name!r} depends on the values of the inputs",
                    "leave such an operator (NonZero, NonMaxSuppression) out of the model, or use another runtime",
                )
            tensor.room(shape)

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        _log.words()
        try:
            return self._run(inputs, outputs)
        except CudaError as error:
            raise EdgedError(Code.INFERENCE_FAILED, f"the GPU failed: {error}") from error
        finally:
            self._settle()

    def _run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        for name, array in inputs.items():
            self._set_shape(name, array.shape)
            self._gpu.send(array, self._place(self._tensors[name], array.shape))
        shapes = {}
        for tensor, shape in self._shapes_of_outputs():
            self._place(tensor, shape)  # of all, also of those that nobody asks for
            shapes[tensor.name] = shape
        if not self._context.execute_async_v3(self._gpu.stream):
            raise EdgedError(Code.INFERENCE_FAILED, f"tensorrt failed: {_log.words()}")
        given = []
        for name in outputs:
            tensor = self._tensors[name]
            array = np.empty(shapes[name], tensor.dtype)
            self._gpu.fetch(tensor.room(shapes[name]), array)
            given.append(array)
        return given

    def _settle(self) -> None:
        """Waits for whatever is still under way: it reads and writes arrays that others have.

        What fails now fails for good: an illegal address, a launch that failed or a GPU that has gone leaves the
        process without CUDA until it ends (cuda.h, CUDA_ERROR_ILLEGAL_ADDRESS). A new one may have it again.
        """
        try:
            self._gpu.wait()
        except CudaError as error:
            raise SystemExit(f"the GPU cannot be used by this process any more: {error}") from error

    def _set_shape(self, name: str, shape: Sequence[int]) -> None:
        if not self._context.set_input_shape(name, tuple(shape)):
            raise EdgedError(
                Code.INVALID_TENSOR,
                f"input {name!r} has the shape {list(shape)}, for which tensorrt has no plan: {_log.words()}",
                "a plan is for the shapes of the manifest's inputs, and for batches of max_batch_size at most",
            )

    def _place(self, tensor: _Tensor, shape: Sequence[int]) -> int:
        address = tensor.room(shape)
        if not self._context.set_tensor_address(tensor.name, address):
            raise EdgedError(Code.INFERENCE_FAILED, f"tensorrt takes no memory for {tensor.name!r}: {_log.words()}")
        return address

    def _shapes_of_outputs(self) -> Iterator[tuple[_Tensor, tuple[int, ...]]]:
        """By the shapes that the inputs have now."""
        if missing := self._context.infer_shapes():
            names = ", ".join(map(str, missing))
            raise EdgedError(Code.INFERENCE_FAILED, f"tensorrt lacks the shapes of {names}: {_log.words()}")
        for tensor in self._outputs:
            yield tensor, tuple(self._context.get_tensor_shape(tensor.name))

    def let_go(self) -> None:
        """It keeps none: what was given lies on the GPU."""


def _takes_shapes(name: str) -> EdgedError:
    return EdgedError(
        Code.LOAD_FAILED,
        f"input or output {name!r} holds a shape, which tensorrt wants in the memory of the processor",
        "fix that shape inside the model, or use another runtime",
    )


def _refused(what: str) -> EdgedError:
    """Why TensorRT gave nothing, by what it logged."""
    words = _log.words()
    if re.search("out ?of ?memory|could not be allocated", words, re.IGNORECASE):
        return short_of_memory(f"for TensorRT: {words}")
    return EdgedError(Code.LOAD_FAILED, f"{what}: {words}")


def _complaints(parser: Any) -> str:
    """What the parser found."""
    found = [" ".join(parser.get_error(index).desc().split()) for index in range(parser.num_errors)]
    return "; ".join(found)[:500] or _log.words()


def _words(error: Exception) -> str:
    """Its message on one line, cut short, and what TensorRT has logged."""
    text = " ".join(str(error).split())[:500] or type(error).__name__
    return "; ".join(filter(None, (text, _log.words(""))))
