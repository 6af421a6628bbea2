"""The part of the tour in which an application asks: images that the model has never seen, and a wrong request."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Any, NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from edged._pb.inference import grpc_service_pb2 as pb
from tools.demo.device import REPO, START_S, Device
from tools.demo.saying import step

MODEL = "digits"
SHOWN = 4


class Answer(NamedTuple):
    """What came back for one image."""

    digit: int
    confidence: float
    took_ms: float
    response: pb.ModelInferResponse


def held_out() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N,8,8] that no bundle has seen, and what is on them [N]."""
    with np.load(REPO / "tests/data/digits-heldout.npz") as archive:
        return archive["images"], archive["labels"]


def request_for(image: NDArray[np.uint8]) -> pb.ModelInferRequest:
    """One image of 8 by 8 pixels, 0 to 16 in the data set, as the model's input [1, 1, 8, 8] of 0 to 1."""
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="FP32", shape=[1, 1, 8, 8])
    request.raw_input_contents.append((image.astype(np.float32) / 16).tobytes())
    return request


def infer(channel: grpc.Channel) -> Any:
    """The call by which a model is asked."""
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )


def classify_all(out: Console, device: Device) -> None:
    """Classifies every held-out image, one request each."""
    ask, (images, labels), answers = infer(device.channel), held_out(), []
    for image in images:
        request = request_for(image)
        began = time.perf_counter()
        response = ask(request, timeout=START_S)
        took_ms = (time.perf_counter() - began) * 1e3
        scores = np.frombuffer(response.raw_output_contents[0], np.float32)
        answers.append(Answer(int(scores.argmax()), float(scores.max()), took_ms, response))
    right = [answer.digit == label for answer, label in zip(answers, labels, strict=True)]

    step(out, f"{len(images)} images that the model has never seen", "a gRPC request each")
    wrong = [index for index, fine in enumerate(right) if not fine][:1]
    chosen = [index for index, fine in enumerate(right) if fine][: SHOWN - len(wrong)] + wrong
    out.print(Columns([picture_of(images[each], answers[each], int(labels[each])) for each in chosen], padding=(0, 3)))
    p50, p90, p99 = np.percentile([answer.took_ms for answer in answers], [50, 90, 99])
    accuracy = 100 * np.mean(right)
    out.print(f"  accuracy {accuracy:.1f} %; latency p50 {p50:.2f} ms, p90 {p90:.2f} ms, p99 {p99:.2f} ms")
    last = answers[-1].response
    variant, level = (last.parameters[key].string_param for key in ("edged_variant", "edged_level"))
    out.print(f"  answered by {last.model_name}, revision {last.model_version}, variant {variant}, at level {level}")


def picture_of(image: NDArray[np.uint8], answer: Answer, label: int) -> Text:
    """An image in shades that need no colours, two letters a pixel, with what was read in it."""
    shades = " ░▒▓█"
    text = Text()
    for row in image:
        text.append("".join(2 * shades[min(int(pixel) // 4, 4)] for pixel in row) + "\n")
    verdict = "" if answer.digit == label else f" wrong: it is {label}"
    text.append(f"{answer.digit}  {100 * answer.confidence:.0f} %", style="bold")
    text.append(verdict, style="bold red")
    return text


def ask_wrongly(out: Console, device: Device) -> None:
    """A wrong request is told what came and what was wanted."""
    request = request_for(np.zeros((8, 8), np.uint8))
    request.inputs[0].shape[:] = [1, 8, 8]
    try:
        infer(device.channel)(request, timeout=START_S)
    except grpc.RpcError as error:
        step(out, "A wrong request", error.code().name)
        out.print(f"  {error.details()}")
    else:
        sys.exit("edged took a request that is wrong")


class Load:
    """Applications that ask without a pause while the block lasts."""

    def __init__(self, device: Device) -> None:
        self._requests = [request_for(image) for image in held_out()[0]]
        self._device = device
        self._stop = threading.Event()
        self._answered: Counter[int] = Counter()
        self._failed: list[str] = []
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        ask, number = infer(self._device.channel), 0
        while not self._stop.is_set():
            number += 1
            try:
                answer = ask(self._requests[number % len(self._requests)], timeout=START_S)
                self._answered[int(answer.model_version)] += 1
            except grpc.RpcError as error:
                self._failed.append(str(error.details()))
            except ValueError as error:  # grpc's, for a channel that was closed meanwhile
                self._failed.append(str(error))
                return

    @property
    def answered(self) -> int:
        """How many were answered."""
        return self._answered.total()

    @property
    def failed(self) -> int:
        """How many were not."""
        return len(self._failed)

    def told(self) -> str:
        """What became of the requests. Exits when one failed."""
        if self._failed:
            sys.exit(f"{len(self._failed)} requests failed, the first with: {self._failed[0]}")
        by = ", ".join(f"{count} by revision {revision}" for revision, count in sorted(self._answered.items()))
        return f"{self._answered.total()} requests meanwhile: {by}, 0 failed"

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
