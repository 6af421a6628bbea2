"""Classes instead of an output's elements, as a caller meets them."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from support.calls import Requested, refused, request, tensor
from support.daemon import REPO, Daemon

from edged._pb.inference import grpc_service_pb2 as pb

IMAGES = np.load(REPO / "tests/data/digits-heldout.npz")["images"][:8].astype(np.float32).reshape(-1, 1, 8, 8)


def digits(images: np.ndarray, classes: int = 0) -> pb.ModelInferRequest:
    asked = request("digits", tensor("image", "FP32", images.shape), raw=[images.tobytes()])
    asked.outputs.append(Requested(name="scores"))
    if classes:
        asked.outputs[0].parameters["classification"].int64_param = classes
    return asked


def scores(daemon: Daemon, images: np.ndarray) -> np.ndarray:
    return np.frombuffer(daemon.infer(digits(images)).raw_output_contents[0], np.float32).reshape(-1, 10)


def strings(raw: bytes) -> list[str]:
    found = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return found


def classes_of(rows: np.ndarray, count: int) -> list[str]:
    """The digits model's labels are the digits."""
    best = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    return [f"{row[index]:f}:{index}:{index}" for row, order in zip(rows, best, strict=True) for index in order]


@pytest.mark.parametrize("count", [1, 3, 10, 11, 65_536])
def test_classes_are_the_largest_scores_with_their_labels(daemon: Daemon, count: int) -> None:
    answer = daemon.infer(digits(IMAGES, count))
    [output] = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("scores", "BYTES", [len(IMAGES), min(count, 10)])
    assert strings(answer.raw_output_contents[0]) == classes_of(scores(daemon, IMAGES), count)


def test_no_rows_have_no_classes(daemon: Daemon) -> None:
    answer = daemon.infer(digits(IMAGES[:0], 3))
    assert (list(answer.outputs[0].shape), answer.raw_output_contents[0]) == ([0, 3], b"")


def test_each_caller_gets_what_it_asked_for_however_batches_form(daemon: Daemon) -> None:
    """Scores, one class, three: asked for at the same time."""
    asked = [(index % 8, (0, 1, 3)[index % 3]) for index in range(60)]
    alone = [scores(daemon, IMAGES[index : index + 1]) for index in range(8)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda each: daemon.infer(digits(IMAGES[each[0] : each[0] + 1], each[1])), asked))
    for (index, count), answer in zip(asked, answers, strict=True):
        if count:
            assert strings(answer.raw_output_contents[0]) == classes_of(alone[index], count)
        else:
            assert answer.raw_output_contents[0] == alone[index].tobytes()


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_what_has_no_order_has_no_classes(daemon: Daemon, datatype: str) -> None:
    asked = request(f"identity-{datatype.lower()}", tensor("x", datatype, [0, 1]))
    asked.outputs.append(Requested(name="y", parameters={"classification": pb.InferParameter(int64_param=1)}))
    status, code, message = refused(daemon, asked)
    assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_tensor")
    assert f"was asked for classes of output 'y', which is {datatype}" in message
