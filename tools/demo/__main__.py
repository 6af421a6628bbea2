"""A tour of edged: starts it as it would run on a device, asks it as an application would, and stops it again.

Nothing is simulated: the daemon, its worker, the model and the requests are those of the product. Everything lives in
a temporary folder, which is removed at the end.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
from grpc_health.v1 import health_pb2
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from edged._pb.inference import grpc_service_pb2 as pb

REPO = Path(__file__).resolve().parents[1]
MODEL = "digits"
SHOWN = 4
START_S = 30


class Answer(NamedTuple):
    """What came back for one image."""

    digit: int
    confidence: float
    took_ms: float
    response: pb.ModelInferResponse


def main() -> None:
    """Runs the tour; exits 1 when any part of it is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svg", type=Path, help="also save the tour as a picture")
    picture: Path | None = parser.parse_args().svg
    out = Console(record=picture is not None, width=92 if picture else None, highlight=False)
    with tempfile.TemporaryDirectory(prefix="edged-demo-") as folder:
        tour(out, Path(folder))
    if picture is not None:
        picture.write_text(_portable(out.export_svg(title="make demo", code_format=_svg_format())))


def tour(out: Console, root: Path) -> None:
    """The tour, with everything below `root`."""
    models = root / "usr/share/edged/models"
    models.parent.mkdir(parents=True)
    models.symlink_to(REPO / "bootc/models")
    log = root / "edged.log"
    began = time.monotonic()
    with log.open("wb") as stream:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "edged", "--root", str(root)], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )
    try:
        with grpc.insecure_channel(f"unix:{root}/run/edged/edged.sock") as channel:
            wait_until_ready(channel, daemon, log)
            step(out, "edged runs", f"ready after {time.monotonic() - began:.1f} s, process {daemon.pid}")
            out.print(f"  [dim]edged --root {root}[/dim]")
            classify_all(out, channel)
            ask_wrongly(out, channel)
        show_status(out, root)
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            status = daemon.wait(START_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            status = daemon.wait()
    if status != 0:
        sys.exit(f"edged ended with status {status}; its log:\n{log.read_text()}")
    if left := [*left_in(root / "run"), *workers_of(daemon.pid)]:
        sys.exit(f"edged left behind: {', '.join(left)}; its log:\n{log.read_text()}")
    step(out, "edged stopped", "SIGTERM, exit status 0, nothing left behind")


def left_in(run: Path) -> list[str]:
    """Sockets below `run`, and the folders in which edged makes them."""
    return [str(path) for path in sorted(run.rglob("*")) if path.is_socket() or path.name.startswith(".bind-")]


def workers_of(daemon: int) -> list[str]:
    """Workers and templates of the process `daemon` that run still, whoever their parent is now."""
    programs = (b"edged.worker.host", b"edged.worker.template")
    ours = [[program, str(daemon).encode()] for program in programs]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if any(words[at : at + 2] in ours for at in range(len(words))):
            found.append(f"worker process {entry.name}")
    return found


def step(out: Console, title: str, text: str = "") -> None:
    """A heading of the tour."""
    out.print(f"\n[bold green]▸ {title}[/bold green]  {text}")


def wait_until_ready(channel: grpc.Channel, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Follows the gRPC health service until the server says SERVING. Exits with its log when it ends before that."""
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(), timeout=START_S, wait_for_ready=True)

    def give_up_with_it() -> None:
        daemon.wait()
        watch.cancel()

    threading.Thread(target=give_up_with_it, daemon=True).start()
    try:
        for state in watch:
            if state.status == health_pb2.HealthCheckResponse.SERVING:
                break
    except grpc.RpcError as error:
        status = daemon.poll()
        daemon.terminate()
        daemon.wait()
        why = str(error.details()) if status is None else f"it ended with status {status}"
        sys.exit(f"edged did not become ready: {why}; its log:\n{log.read_text()}")
    finally:
        watch.cancel()


def request_for(image: NDArray[np.uint8]) -> pb.ModelInferRequest:
    """One image of 8 by 8 pixels, 0 to 16 in the data set, as the model's input [1, 1, 8, 8] of 0 to 1."""
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="FP32", shape=[1, 1, 8, 8])
    request.raw_input_contents.append((image.astype(np.float32) / 16).tobytes())
    return request


def classify_all(out: Console, channel: grpc.Channel) -> None:
    """Classifies every held-out image, one request each."""
    infer = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    with np.load(REPO / "tests/data/digits-heldout.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    answers = []
    for image in images:
        request = request_for(image)
        began = time.perf_counter()
        response = infer(request, timeout=START_S)
        took_ms = (time.perf_counter() - began) * 1e3
        scores = np.frombuffer(response.raw_output_contents[0], np.float32)
        answers.append(Answer(int(scores.argmax()), float(scores.max()), took_ms, response))
    right = [answer.digit == label for answer, label in zip(answers, labels, strict=True)]

    step(out, f"{len(images)} images that the model has never seen", "a gRPC request each")
    wrong = [index for index, fine in enumerate(right) if not fine][:1]
    chosen = [index for index, fine in enumerate(right) if fine][: SHOWN - len(wrong)] + wrong
    out.print(Columns([picture_of(images[each], answers[each], int(labels[each])) for each in chosen], padding=(0, 3)))
    took = np.array([answer.took_ms for answer in answers])
    p50, p90, p99 = np.percentile(took, [50, 90, 99])
    out.print(f"  accuracy {100 * np.mean(right):.1f} %")
    out.print(f"  latency  p50 {p50:.2f} ms, p90 {p90:.2f} ms, p99 {p99:.2f} ms")
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


def ask_wrongly(out: Console, channel: grpc.Channel) -> None:
    """A wrong request is told what came and what was wanted."""
    request = request_for(np.zeros((8, 8), np.uint8))
    request.inputs[0].shape[:] = [1, 8, 8]
    try:
        channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", request_serializer=pb.ModelInferRequest.SerializeToString
        )(request, timeout=START_S)
    except grpc.RpcError as error:
        step(out, "A wrong request", error.code().name)
        out.print(f"  {error.details()}")
    else:
        sys.exit("edged took a request that is wrong")


def show_status(out: Console, root: Path) -> None:
    """What the device engineer sees."""
    shown = subprocess.run(
        [sys.executable, "-m", "edged.ctl.main", "--root", str(root), "status"],
        check=False,
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    step(out, "edgectl status")
    out.print("  " + (shown.stdout or shown.stderr).rstrip().replace("\n", "\n  "), markup=False)
    if shown.returncode != 0:
        sys.exit(f"edgectl status ended with status {shown.returncode}")


def _svg_format() -> str:
    """rich's picture of a terminal without the fonts that it would fetch from elsewhere."""
    from rich._export_format import CONSOLE_SVG_FORMAT

    before, _, after = CONSOLE_SVG_FORMAT.partition("@font-face")
    return before + after[after.index(".{unique_id}-matrix") :]


def _portable(svg: str) -> str:
    """Spaces as spaces: not every program that shows a picture keeps the no-break ones that begin a text."""
    return svg.replace("&#160;", " ").replace("<text ", '<text xml:space="preserve" ')


if __name__ == "__main__":
    main()
