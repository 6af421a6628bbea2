"""A model that takes as long as its caller says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged._pb.inference import grpc_service_pb2 as pb
from edged.bundle.folder import pack
from support.bundles import make_bundle, onnx_model

# Turns of the loop that take a few tenths of a second on a slow machine, and more than a minute on any.
A_WHILE = 300_000
VERY_LONG = 10**9


def counting_bundle(
    folder: Path, *, name: str = "counts", revision: int = 1, extra: str = "", warmup_turns: int = 0
) -> Path:
    """A model with an INT64 input `turns` of shape [1]: it counts so far, and gives what it counted as `counted`.

    With `warmup_turns` it is asked to count so far before it is ready. `extra` belongs to its variant.
    """
    inputs, outputs = [("turns", "INT64", [1])], [("counted", "INT64", [1])]
    model = onnx_model(counting_nodes("turns"), inputs, outputs)
    made = make_bundle(
        folder / name, model, inputs, outputs, name=name, revision=revision, max_batch_size=0, extra=extra
    )
    if warmup_turns:
        np.savez(made / "warmup.npz", turns=np.array([warmup_turns], np.int64))
        with (made / "bundle.toml").open("a") as description:
            description.write('[[warmup]]\nfile = "warmup.npz"\n')
        pack(made)
    return made


def waiting_bundle(folder: Path, *, name: str = "waits", max_batch_size: int = 8, extra: str = "") -> Path:
    """A model that gives `x` as `y`, FP32 of shape [-1, -1], once it has counted to the largest of `turns`.

    `turns` is INT64 of shape [-1, 1]. It looks at `x` only when it has counted.
    """
    inputs = [("turns", "INT64", [-1, 1]), ("x", "FP32", [-1, -1])]
    outputs = [("y", "FP32", [-1, -1])]
    nodes = [
        helper.make_node("ReduceMax", ["turns"], ["most"], keepdims=0),
        *counting_nodes("most"),
        helper.make_node("Cast", ["counted"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "nothing"], ["zero"]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    nothing = helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0])
    nodes.insert(0, helper.make_node("Constant", [], ["nothing"], value=nothing))
    model = onnx_model(nodes, inputs, outputs)
    return make_bundle(folder / name, model, inputs, outputs, name=name, max_batch_size=max_batch_size, extra=extra)


def counting_nodes(turns: str) -> list[onnx.NodeProto]:
    """Nodes that count to `turns`, and give that as `counted`."""
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Add", ["so_far", "one"], ["now"])],
        "count",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("so_far", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("now", TensorProto.INT64, [1]),
        ],
        [one],
    )
    return [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True])),
        helper.make_node("Constant", [], ["none"], value=helper.make_tensor("none", TensorProto.INT64, [1], [0])),
        helper.make_node("Loop", [turns, "yes", "none"], ["counted"], body=body),
    ]


def count_to(turns: int, *, model: str = "counts") -> pb.ModelInferRequest:
    """A request for it."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="turns", datatype="INT64", shape=[1])
    return pb.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[turns.to_bytes(8, "little", signed=True)]
    )
