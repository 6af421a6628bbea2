"""Bundles whose best variant is built on the device, and what a daemon tells of that."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from edged._pb.edged.v1 import admin_pb2 as pb
from edged._pb.inference import grpc_service_pb2 as inference
from edged.bundle.folder import pack
from support.bundles import onnx_model
from support.daemon import Daemon
from support.polling import until

NAME = "twice"
BEST, PORTABLE = "built", "portable"

_QUICK = "[acceptance]\nshadow = { samples = 0 }\nsoak = { min_requests = 0, max_s = 0.5 }\n"


def twice_bundle(
    folder: Path,
    revision: int = 1,
    *,
    name: str = NAME,
    runtime: str = "openvino",
    building: Mapping[str, Any] | None = None,
    portable: bool = True,
    golden_factor: float = 2.0,
    extra: str = "",
) -> Path:
    """`x` FP32 [-1, 2] gives `y`, twice as much: `built` is derived, then perhaps `portable` of ONNX Runtime.

    `built` is of `runtime` or, with `building`, of the building engine, which is told that. `extra`: of that variant.
    """
    made = folder / name / str(revision)
    made.mkdir(parents=True)
    tensors = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
    (made / "model.onnx").write_bytes(onnx_model([helper.make_node("Add", ["x", "x"], ["y"])], *tensors))
    file = "model.onnx"
    if building is not None:
        runtime, file = "building", "source.json"
        (made / file).write_text(json.dumps({"building": "", **building, "of": revision}))
    inputs = np.arange(8, dtype=np.float32).reshape(4, 2)
    goldens = {BEST: golden_factor, PORTABLE: 2.0} if portable else {BEST: golden_factor}
    for variant, factor in goldens.items():
        np.savez(made / f"{variant}.npz", **{"inputs/x": inputs, "outputs/y": inputs * np.float32(factor)})
    text = (
        f'name = "{name}"\nrevision = {revision}\nmax_batch_size = 8\n'
        'inputs = [{ name = "x", datatype = "FP32", shape = [-1, 2] }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [-1, 2] }]\n'
        f'[[variants]]\nname = "{BEST}"\nruntime = "{runtime}"\nfile = "{file}"\nderived = true\n{extra}'
    )
    if portable:
        text += f'[[variants]]\nname = "{PORTABLE}"\nruntime = "onnxruntime"\nfile = "model.onnx"\n'
    golden = "".join(f'[[acceptance.goldens]]\nfile = "{each}.npz"\nvariants = ["{each}"]\n' for each in goldens)
    (made / "bundle.toml").write_text(text + _QUICK + golden)
    pack(made)
    return made


def cached(root: Path) -> list[Path]:
    """The files of a device's cache, the unfinished ones too."""
    return sorted((root / "var/cache/edged/derived").glob("*")) + sorted((root / "var/cache/edged/derived").glob(".*"))


def runs(status: pb.Status, variant: str, name: str = NAME) -> bool:
    """Whether a model answers by a variant."""
    return any(model.name == name and model.ready and model.variant == variant for model in status.models)


def asked(name: str = NAME) -> inference.ModelInferRequest:
    """A request of one row: 1, 2."""
    tensor = inference.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
    raw = np.array([1, 2], np.float32).tobytes()
    return inference.ModelInferRequest(model_name=name, inputs=[tensor], raw_input_contents=[raw])


def answer(daemon: Daemon, name: str = NAME) -> list[float]:
    """What it gives to that."""
    return np.frombuffer(daemon.infer(asked(name)).raw_output_contents[0], np.float32).tolist()


class Callers:
    """Somebody who asks without end; leaving it raises what a call raised."""

    def __init__(self, daemon: Daemon, name: str = NAME) -> None:
        self.variants: list[str] = []
        """Who answered, one after the other."""
        self._daemon = daemon
        self._name = name
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Callers:
        self._calling = self._pool.submit(self._call)
        self.until(1)
        return self

    def _call(self) -> None:
        while not self._stop.is_set():
            told = self._daemon.infer(asked(self._name)).parameters
            self.variants.append(told["edged_variant"].string_param)

    def until(self, more: int) -> None:
        """Waits for so many answers beyond those that there are."""
        wanted = len(self.variants) + more
        until(lambda: len(self.variants) >= wanted or self._calling.done(), f"{more} more are answered")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._calling.result()
