"""The other floor: onnxruntime in this process, one thread, nothing around it.

Started as `python -m benchmarks.programs.engine MODEL REQUEST SECONDS ROWS:COUNT,…`; prints one JSON object. Batches
have so many rows, each the request's, in the proportion of the counts.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged._pb.inference import grpc_service_pb2 as pb

WARM_UP_S = 0.1
DTYPES = {"FP32": np.float32, "UINT8": np.uint8}


def main(model: str, request: str, seconds: float, batches: dict[int, int]) -> None:
    """Runs for some time, and tells how many rows there were and what they took."""
    session = open_session(model)
    feed = inputs(Path(request).read_bytes())
    feeds = {rows: {name: np.repeat(array, rows, axis=0) for name, array in feed.items()} for rows in batches}
    order = mixed(batches)
    run(session, feeds, order, WARM_UP_S)
    before, began = time.process_time(), time.monotonic()
    rows = run(session, feeds, order, seconds)
    elapsed_s, cpu_s = time.monotonic() - began, time.process_time() - before
    print(json.dumps({"rows": rows, "elapsed_s": elapsed_s, "cpu_s": cpu_s}))


def open_session(model: str) -> onnxruntime.InferenceSession:
    """A model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def mixed(batches: Mapping[int, int]) -> Iterator[int]:
    """The rows of one batch after the other, without end, each size evenly between the others."""
    places = [((index + 0.5) / count, rows) for rows, count in batches.items() for index in range(count)]
    return itertools.cycle([rows for _, rows in sorted(places)])


def inputs(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a request."""
    request = pb.ModelInferRequest.FromString(data)
    return {
        tensor.name: np.frombuffer(content, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def run(
    session: onnxruntime.InferenceSession,
    feeds: Mapping[int, dict[str, NDArray[Any]]],
    order: Iterator[int],
    seconds: float,
) -> int:
    """Runs until the time is over; gives how many rows."""
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        rows = next(order)
        session.run(None, feeds[rows])
        done += rows
    return done


if __name__ == "__main__":
    mix = {int(rows): int(count) for rows, count in (each.split(":") for each in sys.argv[4].split(","))}
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), mix)
