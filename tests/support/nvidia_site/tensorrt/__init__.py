"""Stands for NVIDIA's Python bindings of TensorRT: as much of them as edged calls, as strict as they are.

Its version is that of the package `tensorrt` that is installed beside it: 8 has no way to keep to the types of the file
and no BF16, 11 no way but that. A plan is the ONNX model with a line before it that says for what it was built; the
reference evaluator of the package `onnx` runs it, on memory that the stand-in for the driver has given out, when the
stream is waited for. Without that driver it crashes the process, as the original does.
"""

from __future__ import annotations

import ctypes
import enum
import json
from importlib import metadata

import ml_dtypes
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

__version__ = metadata.version("tensorrt")
_MAJOR = int(__version__.partition(".")[0])

_NUMBERS = {
    "FLOAT": ("float32", onnx.TensorProto.FLOAT),
    "HALF": ("float16", onnx.TensorProto.FLOAT16),
    "INT8": ("int8", onnx.TensorProto.INT8),
    "INT32": ("int32", onnx.TensorProto.INT32),
    "BOOL": ("bool", onnx.TensorProto.BOOL),
    "UINT8": ("uint8", onnx.TensorProto.UINT8),
    "FP8": ("float8_e4m3fn", onnx.TensorProto.FLOAT8E4M3FN),
}
if _MAJOR >= 10:
    _NUMBERS |= {"BF16": ("bfloat16", onnx.TensorProto.BFLOAT16), "INT64": ("int64", onnx.TensorProto.INT64)}

DataType = enum.Enum("DataType", list(_NUMBERS))
_OF_ONNX = {number: DataType[name] for name, (_, number) in _NUMBERS.items()}

TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
LayerType = enum.Enum("LayerType", ["OTHER", "QUANTIZE", "DEQUANTIZE"])
NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag",
    {8: {"EXPLICIT_BATCH": 0}, 10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 11: {"STRONGLY_TYPED": 0}}[_MAJOR],
)
_TYPED = getattr(NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
BuilderFlag = enum.Enum(
    "BuilderFlag", {8: ["TF32", "FP16", "INT8"], 10: ["TF32", "FP16", "INT8", "BF16"], 11: ["TF32"]}[_MAJOR]
)

# Their outputs are as large as the values of their inputs have it.
_DEPENDS_ON_VALUES = {"NonZero", "NonMaxSuppression", "Unique", "Compress"}

_QUANTIZING = {"QuantizeLinear": LayerType.QUANTIZE, "DequantizeLinear": LayerType.DEQUANTIZE}


class ILogger:
    """What an application is told."""

    Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)


def _driver(logger):
    """The driver's stand-in. Where it was not begun with, the original dereferences a null pointer."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        library = None
    if library is None or not library.standin_initialized():
        ctypes.string_at(0)
    library.standin_room.restype, library.standin_room.argtypes = ctypes.c_size_t, (ctypes.c_uint64,)
    logger.log(ILogger.Severity.WARNING, "this is not what anybody looks for")
    return library


def init_libnvinfer_plugins(logger, namespace):
    """The original's are not there."""
    return bool(logger) and namespace == ""


class _Tensor:
    def __init__(self, value, *, is_shape_tensor=False):
        kind = value.type.tensor_type
        self.name = value.name
        self.dtype = _OF_ONNX.get(kind.elem_type)
        self.shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
        self.is_shape_tensor = is_shape_tensor


class _Layer:
    def __init__(self, node, values):
        self.type = _QUANTIZING.get(node.op_type, LayerType.OTHER)
        self._outputs = [values[name] for name in node.output]
        self.num_outputs = len(self._outputs)

    def get_output(self, index):
        return self._outputs[index]


class _Network:
    """INetworkDefinition: what a parser put into it."""

    def __init__(self, flags):
        self.is_typed = _MAJOR >= 11 or (_TYPED is not None and bool(flags & 1 << _TYPED))
        if _MAJOR < 10:
            assert flags & 1 << NetworkDefinitionCreationFlag.EXPLICIT_BATCH, "the batch would be no axis"

    def read(self, content):
        self.content, self.inputs = content, []
        model = onnx.load_from_string(content)
        self.unknown = [node.op_type for node in model.graph.node if node.domain]
        if self.unknown:
            return
        graph = onnx.shape_inference.infer_shapes(model).graph
        shapes = {name for node in graph.node if node.op_type in ("Reshape", "Expand") for name in node.input[1:]}
        self.inputs = [_Tensor(each, is_shape_tensor=each.name in shapes) for each in graph.input]
        self.outputs = [_Tensor(each) for each in graph.output]
        values = {each.name: _Tensor(each) for each in [*graph.value_info, *graph.output]}
        self.layers = [_Layer(node, values) for node in graph.node]

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_input(self, index):
        return self.inputs[index]

    @property
    def num_layers(self):
        return len(self.layers)

    def get_layer(self, index):
        return self.layers[index]


class _ParserError:
    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text


class OnnxParser:
    """Reads a model into a network."""

    def __init__(self, network, logger):
        assert isinstance(logger, ILogger)
        self._network = network
        self._errors = []

    def parse(self, model):
        try:
            self._network.read(bytes(model))
        except Exception:  # noqa: BLE001 - as it says
            self._errors = ["Failed to parse the ONNX model."]
            return False
        unnumbered = [each.name for each in self._network.inputs if each.dtype is None]
        self._errors = [f"Unsupported ONNX data type of {name}" for name in unnumbered]
        self._errors += [f"No importer registered for op: {name}\nat a node" for name in self._network.unknown]
        return not self._errors

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return _ParserError(self._errors[index])


class _Profile:
    """IOptimizationProfile."""

    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, best, most):
        if not all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)):
            raise RuntimeError("Shape provided for opt is inconsistent with other shapes.")
        self.shapes[name] = [list(least), list(best), list(most)]


class _Config:
    """IBuilderConfig."""

    def __init__(self):
        self.flags = {"TF32"}
        self.profiles = []
        self.workspace_bytes = None

    def set_flag(self, flag):
        self.flags.add(BuilderFlag(flag).name)

    def clear_flag(self, flag):
        self.flags.remove(BuilderFlag(flag).name)

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool, size):
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace_bytes = size


class Builder:
    """Builds plans."""

    def __init__(self, logger):
        self._logger = logger
        self._driver = _driver(logger)
        self.max_threads = 0
        if self._driver.standin_queue(None) == 1:
            logger.log(ILogger.Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 1")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags=0):
        return _Network(flags)

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        if problem := self._problem(network, config):
            self._logger.log(ILogger.Severity.ERROR, f"[builder.cpp::build::1] Error Code 4: {problem}")
            return None
        about = {
            "version": __version__,
            "flags": sorted(config.flags),
            "typed": network.is_typed,
            "threads": self.max_threads,
            "workspace_bytes": config.workspace_bytes,
            "profile": config.profiles[0].shapes if config.profiles else {},
        }
        return json.dumps(about).encode() + b"\n" + network.content

    def _problem(self, network, config):
        if self._driver.standin_queue(None):
            return "OutOfMemory (Requested size was 1073741824 bytes.)"
        named = {each.name for each in network.inputs if -1 in each.shape}
        if named - (config.profiles[0].shapes if config.profiles else {}).keys():
            return "Network has dynamic inputs, but no optimization profile has been defined"
        weak = config.flags - {"TF32"}
        if network.is_typed:
            return f"{weak} cannot be set in a strongly typed network" if weak else ""
        types = {layer.get_output(at).dtype.name for layer in network.layers for at in range(layer.num_outputs)}
        for kind, flag in (("HALF", "FP16"), ("INT8", "INT8"), ("BF16", "BF16")):
            if kind in types and flag not in weak:
                return f"{flag} precision has been set for a layer, but {flag} is not configured in the builder"
        return ""


class Runtime:
    """Loads plans."""

    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        driver = _driver(self._logger)
        try:
            line, _, content = bytes(plan).partition(b"\n")
            about = json.loads(line)
        except ValueError:
            self._logger.log(ILogger.Severity.ERROR, "Error Code 1: Serialization (magicTag does not match)")
            return None
        if about["version"] != __version__:
            self._logger.log(ILogger.Severity.ERROR, "Error Code 6: the engine plan file is not compatible\nwith this")
            return None
        return _Engine(driver, about, content, self._logger)


class _Engine:
    """ICudaEngine."""

    def __init__(self, driver, about, content, logger):
        self.driver, self.about, self.logger = driver, about, logger
        self.model = onnx.load_from_string(content)
        network = _Network(-1)
        network.read(content)
        self.inputs = {each.name: each for each in network.inputs}
        self.outputs = {each.name: each for each in network.outputs}
        self._names = [*self.inputs, *self.outputs]
        self.open = {
            each.name
            for node in self.model.graph.node
            if node.op_type in _DEPENDS_ON_VALUES
            for each in network.outputs
            if each.name in node.output
        }

    def of(self, name):
        return (self.inputs | self.outputs)[name]

    @property
    def num_io_tensors(self):
        return len(self._names)

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self.of(name).dtype

    def get_tensor_shape(self, name):
        return self.of(name).shape

    def get_tensor_location(self, name):
        return TensorLocation.HOST if self.of(name).is_shape_tensor else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name, index):
        assert index == 0
        return self.about["profile"][name]

    def create_execution_context(self):
        if self.driver.standin_queue(None):
            self.logger.log(ILogger.Severity.ERROR, "Requested amount of GPU memory could not be allocated.")
            return None
        return _Context(self)


class _Context:
    """IExecutionContext."""

    def __init__(self, engine):
        self._engine = engine
        self._shapes = {name: each.shape for name, each in engine.inputs.items() if -1 not in each.shape}
        self._addresses = {}
        self._calls = []

    def _error(self, text):
        self._engine.logger.log(ILogger.Severity.ERROR, f"[executionContext.cpp::call::1] Error Code 3: {text}")
        return False

    def set_input_shape(self, name, shape):
        engine = self._engine
        least, _, most = engine.about["profile"].get(name) or [engine.inputs[name].shape] * 3
        if len(least) != len(shape) or not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return self._error(f"API Usage Error: the shape {shape} of {name} does not lie in the profile")
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self):
        return [name for name in self._engine.inputs if name not in self._shapes]

    def get_tensor_shape(self, name):
        if name in self._shapes:
            return self._shapes[name]
        if name in self._engine.open:
            return (-1,) * len(self._engine.of(name).shape)
        zeros = {each: np.zeros(shape, self._dtype(each)) for each, shape in self._shapes.items()}
        return self._compute(zeros)[name].shape

    def _dtype(self, name):
        name = _NUMBERS[self._engine.of(name).dtype.name][0]
        return np.dtype(getattr(ml_dtypes, name, None) or name)

    def _compute(self, inputs):
        given = ReferenceEvaluator(self._engine.model).run(None, inputs)
        return dict(zip(self._engine.outputs, given, strict=True))

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return bool(self._engine.driver.standin_room(address))

    def execute_async_v3(self, stream):
        assert stream, "the default stream"
        assert self._addresses.keys() == self._engine.inputs.keys() | self._engine.outputs.keys()
        call = ctypes.CFUNCTYPE(None)(self._execute)
        self._calls = [call]  # it must live until it has been called
        if self._engine.driver.standin_queue(call):
            return self._error("Cask: a kernel could not be launched")
        return True

    def _execute(self):
        inputs = {}
        for name, shape in self._shapes.items():
            array = np.empty(shape, self._dtype(name))
            ctypes.memmove(array.ctypes.data, self._addresses[name], array.nbytes)
            inputs[name] = array
        for name, array in self._compute(inputs).items():
            assert array.nbytes <= self._engine.driver.standin_room(self._addresses[name])
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
