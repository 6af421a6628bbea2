"""A small convolutional network: some milliseconds of computing for each row, on any machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edged._pb.inference import grpc_service_pb2 as pb
from support.bundles import make_bundle, onnx_model

NAME = "convnet"
SHAPE = (3, 96, 96)
CLASSES = 10


def convnet_bundle(folder: Path, max_batch_size: int = 8) -> Path:
    """`image` FP32 [-1, 3, 96, 96] gives `scores` FP32 [-1, 10]; three convolutions with fixed weights."""
    inputs, outputs = [("image", "FP32", [-1, *SHAPE])], [("scores", "FP32", [-1, CLASSES])]
    random = np.random.default_rng(20260101)
    nodes: list[onnx.NodeProto] = []

    def constant(*shape: int) -> str:
        name = f"c{len(nodes)}"
        values = random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
        nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name)))
        return name

    last, channels = "image", SHAPE[0]
    for index, wide in enumerate((32, 64, 64)):
        kernel = constant(wide, channels, 3, 3)
        nodes.append(helper.make_node("Conv", [last, kernel], [f"v{index}"], pads=[1, 1, 1, 1], strides=[1, 1]))
        nodes.append(helper.make_node("Relu", [f"v{index}"], [f"r{index}"]))
        last, channels = f"r{index}", wide
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", constant(channels, CLASSES)], ["scores"]))
    model = onnx_model(nodes, inputs, outputs)
    return make_bundle(folder / NAME, model, inputs, outputs, name=NAME, max_batch_size=max_batch_size)


def image(priority: int = 0) -> pb.ModelInferRequest:
    """A request of one row."""
    request = pb.ModelInferRequest(model_name=NAME)
    request.inputs.add(name="image", datatype="FP32", shape=(1, *SHAPE))
    request.raw_input_contents.append(np.ones(SHAPE, np.float32).tobytes())
    if priority:
        request.parameters["priority"].int64_param = priority
    return request
