"""The other floor: onnxruntime in this process, one run a request, one thread, nothing around it.

Started as `python -m benchmarks.programs.engine MODEL REQUEST SECONDS`; prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged._pb.inference import grpc_service_pb2 as pb

WARM_UP_S = 0.1
DTYPES = {"FP32": np.float32, "UINT8": np.uint8}


def main(model: str, request: str, seconds: float) -> None:
    """Runs for some time, and tells how many runs there were and what they took."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = inputs(Path(request).read_bytes())
    run(session, feed, WARM_UP_S)
    before, began = time.process_time(), time.monotonic()
    runs = run(session, feed, seconds)
    elapsed_s, cpu_s = time.monotonic() - began, time.process_time() - before
    print(json.dumps({"runs": runs, "elapsed_s": elapsed_s, "cpu_s": cpu_s}))


def inputs(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a request."""
    request = pb.ModelInferRequest.FromString(data)
    return {
        tensor.name: np.frombuffer(content, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def run(session: onnxruntime.InferenceSession, feed: dict[str, NDArray[Any]], seconds: float) -> int:
    """Runs until the time is over; gives how often."""
    end = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < end:
        session.run(None, feed)
        runs += 1
    return runs


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
