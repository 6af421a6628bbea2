"""A real daemon that follows a fleet, and models whose revisions do what the test wants."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edged._pb.edged.v1 import update_pb2 as up
from edged._pb.inference import grpc_service_pb2 as pb
from edged.bundle.folder import pack
from support.bundles import onnx_model
from support.daemon import PATIENCE_S, Daemon
from support.polling import until

SERVICE = "edged.v1.Updates"
MODEL = "scale"

# A soak that commits after a few requests, or after a moment without any.
QUICK = "[acceptance]\nshadow = { samples = 0 }\nsoak = { min_requests = 0, max_s = 0.5 }\n"


def scale_bundle(
    folder: Path,
    revision: int,
    *,
    factor: float = 2.0,
    extra: str = QUICK,
    golden_factor: float | None = None,
    model: bytes | None = None,
    runtime: str = "onnxruntime",
    columns: int = 2,
    does: str = "",
    min_revision: int = 1,
) -> Path:
    """Revision `revision` of a model that multiplies `x` of shape [-1, columns] into `y`; with one golden.

    `golden_factor`: what the golden says the factor is; `does`: for the hostile engine, what it does when triggered.
    """
    made = folder / MODEL / str(revision)
    made.mkdir(parents=True)
    tensors = [("x", "FP32", [-1, columns])], [("y", "FP32", [-1, columns])]
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(factor, np.float32), "k")),
        helper.make_node("Mul", ["x", "k"], ["y"]),
    ]
    content = json.dumps({"does": does}).encode() if does else onnx_model(nodes, *tensors)
    (made / "model.onnx").write_bytes(model if model is not None else content)
    inputs = np.arange(4 * columns, dtype=np.float32).reshape(4, columns) / 8
    scaled = inputs * np.float32(golden_factor if golden_factor is not None else factor)
    np.savez(made / "golden.npz", **{"inputs/x": inputs, "outputs/y": scaled})
    description = (
        f'name = "{MODEL}"\nrevision = {revision}\nmin_revision = {min_revision}\nmax_batch_size = 8\n'
        f'inputs = [{{ name = "x", datatype = "FP32", shape = [-1, {columns}] }}]\n'
        f'outputs = [{{ name = "y", datatype = "FP32", shape = [-1, {columns}] }}]\n'
        f'[[variants]]\nname = "cpu"\nruntime = "{runtime}"\nfile = "model.onnx"\n'
    )
    goldens = '[[acceptance.goldens]]\nfile = "golden.npz"\n'
    (made / "bundle.toml").write_text(description + extra + goldens)
    pack(made)
    return made


def picky_model(most: float, factor: float = 2.0) -> bytes:
    """It multiplies `x` of shape [-1, 2] into `y`, and errs where a value is above `most`: a table ends too early."""
    constants = {"most": np.array(most, np.float32), "table": np.array([factor], np.float32)}
    nodes = [
        *(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
            for name, value in constants.items()
        ),
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "most"], ["above"]),
        helper.make_node("Cast", ["above"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["factor"]),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    return onnx_model(nodes, [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])


def large_model(mib: int, factor: float = 2.0) -> bytes:
    """It multiplies `x` of shape [-1, 2] into `y`, by the first element of a table that takes so many MiB."""
    constants = {"least": np.array(np.inf, np.float32), "table": np.full(mib * 2**18, factor, np.float32)}
    nodes = [
        *(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
            for name, value in constants.items()
        ),
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "least"], ["above"]),  # an engine cannot know the place beforehand
        helper.make_node("Cast", ["above"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["factor"]),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    return onnx_model(nodes, [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])


def scale(*values: float, version: str = "") -> pb.ModelInferRequest:
    """A request for it, of one row."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, len(values)])
    raw = np.array(values, np.float32).tobytes()
    return pb.ModelInferRequest(model_name=MODEL, model_version=version, inputs=[tensor], raw_input_contents=[raw])


class Updating:
    """A daemon's updates, asked as edgectl asks."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def call(self, method: str, request: Any, reply: Any) -> Any:
        """One call of `edged.v1.Updates`. Raises grpc.RpcError."""
        return self.daemon.call(f"{SERVICE}/{method}", request, reply, admin=True)

    def look(self, **fields: Any) -> up.UpdatesStatus:
        """LookNow."""
        return self.call("LookNow", up.LookNowRequest(**fields), up.LookNowResponse).status

    def model(self, name: str = MODEL) -> up.ModelUpdate:
        """How a model's update stands."""
        status = self.call("GetUpdates", up.GetUpdatesRequest(), up.UpdatesStatus)
        return next((each for each in status.models if each.model == name), up.ModelUpdate())

    def history(self, name: str = MODEL) -> list[up.Transition]:
        """What happened."""
        request = up.ListHistoryRequest(model=name, limit=2000)
        return list(self.call("ListHistory", request, up.ListHistoryResponse).transitions)

    def wait(self, condition: Callable[[up.ModelUpdate], bool], name: str = MODEL) -> up.ModelUpdate:
        """Waits until a model's update stands so."""
        end = time.monotonic() + PATIENCE_S
        watch = self.daemon.channel(admin=True).unary_stream(
            f"/{SERVICE}/WatchUpdates",
            request_serializer=up.WatchUpdatesRequest.SerializeToString,
            response_deserializer=up.UpdatesStatus.FromString,
        )(up.WatchUpdatesRequest(), timeout=PATIENCE_S)
        try:
            for status in watch:
                for model in status.models:
                    if model.model == name and condition(model):
                        return model
                if time.monotonic() > end:
                    break
        except grpc.RpcError:
            pass
        finally:
            watch.cancel()
        raise AssertionError(f"the update never stood so:\n{self.model(name)}\n{self.daemon.log()}")

    def wait_idle_at(self, revision: int) -> up.ModelUpdate:
        """Waits until `revision` serves and nothing is under way."""
        return self.wait(lambda model: model.phase == "idle" and model.serving == revision)

    def wait_looked(self) -> None:
        """Waits until the look of the start is over; it begins at once, and would come between."""
        status = (up.GetUpdatesRequest(), up.UpdatesStatus)
        until(lambda: self.call("GetUpdates", *status).last_look, "a look is over", log=self.daemon.log)

    def last_reason(self, name: str = MODEL) -> str:
        """Why the last update that failed did."""
        return next((each.reason for each in reversed(self.history(name)) if each.reason), "")

    def answers(self, values: Sequence[float] = (1.0, 2.0)) -> tuple[list[float], int]:
        """What the model gives, and which revision gave it."""
        response = self.daemon.infer(scale(*values))
        return list(np.frombuffer(response.raw_output_contents[0], np.float32)), int(response.model_version)
