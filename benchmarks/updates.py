"""Measures what updates cost while applications ask: latency at the flip, going back, bytes fetched, memory kept.

A fleet and a device of their own, as in the demo, the repository behind a web server that counts. docs/benchmarks.md
explains what it prints. It fails when an update or a request does, never because of a number.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import msgspec
import numpy as np
from onnx import helper, numpy_helper

from benchmarks import machine, processes, procfs, report
from benchmarks.budgets import MIB, Verdict
from benchmarks.measure import percentile
from edged._pb.edged.v1 import update_pb2 as up
from edged._pb.inference import grpc_service_pb2 as pb
from edged.bundle.folder import pack
from tools.demo.asking import MODEL, held_out, infer, request_for
from tools.demo.device import REPO, Device
from tools.demo.fleet import Fleet

BUNDLES = {1: REPO / "bootc/models/digits/1", 2: REPO / "tests/data/bundles/digits-2"}
SERVICE = "edged.v1.Updates"
LIMIT_S = 120.0
BEFORE_S = 2.0
AROUND_S = 0.1


class Asked(msgspec.Struct, frozen=True):
    """One request, by the monotonic clock."""

    began_s: float
    took_s: float
    revision: int


class Found(msgspec.Struct, kw_only=True):
    """What was measured."""

    before_p99_ms: float = 0.0
    flip_p99_ms: float = 0.0
    trial_p99_ms: float = 0.0
    """From the call that begins an update until shortly before its flip: the new revision loads and is tried beside."""
    requests: int = 0
    back_ms: list[float] = []
    """From the call that asks for it to the end of the last answer by the revision that was gone back on."""
    head_bytes: int = 0
    """What a device fetched for a model with a changed head: chunks, manifest and metadata."""
    head_chunk_bytes: int = 0
    """The chunks among them."""
    changed_bytes: int = 0
    """The chunks that had changed, as packed."""
    poll_bytes: int = 0
    kept_bytes: list[int] = []
    """Memory (PSS) of the front after each further update and the way back, less that before it."""


class Counting(SimpleHTTPRequestHandler):
    """Serves a folder and counts the bytes of its bodies."""

    sent = 0
    sent_chunks = 0

    def copyfile(self, source: object, outputfile: object) -> None:
        """Sends a body."""
        content = source.read()  # type: ignore[attr-defined]
        Counting.sent += len(content)
        Counting.sent_chunks += len(content) if self.path.startswith("/chunks/") else 0
        outputfile.write(content)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        """Not told."""


class Bench:
    """A device that is asked all the time, and its updates."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.asked: list[Asked] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._admin = grpc.insecure_channel(f"unix:{device.root}/run/edged-admin/admin.sock")

    def _ask(self) -> None:
        ask, requests, number = infer(self.device.channel), [request_for(image) for image in held_out()[0]], 0
        while not self._stop.is_set():
            number += 1
            began_s = time.monotonic()
            answer: pb.ModelInferResponse = ask(requests[number % len(requests)], timeout=LIMIT_S)
            self.asked.append(Asked(began_s, time.monotonic() - began_s, int(answer.model_version)))

    def call(self, method: str, request: object, reply: type) -> object:
        """One call of `edged.v1.Updates`. Raises grpc.RpcError."""
        stub = self._admin.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,  # type: ignore[attr-defined]
            response_deserializer=reply.FromString,  # type: ignore[attr-defined]
        )
        return stub(request, timeout=LIMIT_S)

    def model(self, name: str = MODEL) -> up.ModelUpdate:
        """How a model's update stands."""
        status = self.call("GetUpdates", up.GetUpdatesRequest(), up.UpdatesStatus)
        return next(each for each in status.models if each.model == name)  # type: ignore[attr-defined]

    def wait(self, condition: Callable[[up.ModelUpdate], bool], name: str = MODEL) -> None:
        """Waits until an update stands so. Raises TimeoutError."""
        end_s = time.monotonic() + LIMIT_S
        while not condition(self.model(name)):
            if time.monotonic() > end_s:
                raise TimeoutError(self.device.edgectl("history", name))
            time.sleep(0.02)

    def go(self, revision: int) -> None:
        """Goes to a revision and waits until it is there."""
        self.call("Pin", up.PinRequest(model=MODEL, revision=revision), up.PinResponse)
        self.wait(lambda model: model.phase == "idle" and model.serving == revision)

    def look(self) -> None:
        """Has the repository looked at."""
        self.call("LookNow", up.LookNowRequest(), up.LookNowResponse)

    def __enter__(self) -> Bench:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._admin.close()


def flips(bench: Bench, found: Found, rounds: int) -> None:
    """There and back under load: latency around each flip beside that before, and the front's memory after each."""
    before: list[float] = []
    around: list[float] = []
    trial: list[float] = []
    pid = bench.device.pid
    for revision in (2, 1):  # what is allocated the first time stays
        bench.go(revision)
    for _ in range(rounds):
        held = procfs.memories([pid])[pid].pss
        for revision in (2, 1):
            time.sleep(BEFORE_S)
            calm_s = time.monotonic()
            before += [each.took_s for each in bench.asked if calm_s - BEFORE_S < each.began_s < calm_s]
            bench.go(revision)
            flip_s = next(each.began_s for each in bench.asked if each.began_s > calm_s and each.revision == revision)
            around += [each.took_s for each in bench.asked if abs(each.began_s - flip_s) < AROUND_S]
            trial += [each.took_s for each in bench.asked if calm_s < each.began_s < flip_s - AROUND_S]
        found.kept_bytes.append(procfs.memories([pid])[pid].pss - held)
    found.before_p99_ms = percentile(sorted(before), 99) * 1e3
    found.flip_p99_ms = percentile(sorted(around), 99) * 1e3
    found.trial_p99_ms = percentile(sorted(trial), 99) * 1e3


def backs(bench: Bench, found: Found, rounds: int) -> None:
    """Going back in the middle of a soak."""
    for _ in range(rounds):
        bench.call("Pin", up.PinRequest(model=MODEL, revision=2), up.PinResponse)
        bench.wait(lambda model: model.phase == "soaking")
        called_s = time.monotonic()
        bench.call("RollBack", up.RollBackRequest(model=MODEL), up.RollBackResponse)
        bench.wait(lambda model: model.phase == "idle" and model.serving == 1)
        ends = [each.began_s + each.took_s for each in bench.asked if each.revision == 2]
        found.back_ms.append(max(0.0, max(ends) - called_s) * 1e3)
        for method, request, reply in (
            ("Unpin", up.UnpinRequest(model=MODEL), up.UnpinResponse),
            ("ReleaseQuarantine", up.ReleaseQuarantineRequest(name=MODEL), up.ReleaseQuarantineResponse),
        ):
            bench.call(method, request, reply)
        bench.wait(lambda model: model.phase == "idle" and model.serving == 1)


def large_bundle(folder: Path, revision: int) -> Path:
    """A model with a body of 16 MiB that is always the same, and a head of 1 MiB that is each revision's own."""
    folder.mkdir()
    parts = [
        np.random.default_rng(seed).standard_normal(size, np.float32) for seed, size in ((0, 2**22), (revision, 2**18))
    ]
    nodes = [helper.make_node("Add", ["x", "one"], ["y"])]
    tensor = partial(helper.make_tensor_value_info, elem_type=1, shape=[-1, 1])
    initializers = [numpy_helper.from_array(part, name) for part, name in zip(parts, ("body", "head"), strict=True)]
    initializers.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    graph = helper.make_graph(nodes, "large", [tensor("x")], [tensor("y")], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (folder / "bundle.toml").write_text(
        f'name = "large"\nrevision = {revision}\nmax_batch_size = 1\n'
        'inputs = [{ name = "x", datatype = "FP32", shape = [-1, 1] }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [-1, 1] }]\n'
        '[[variants]]\nname = "cpu"\nruntime = "onnxruntime"\nfile = "model.onnx"\n'
        "[acceptance]\nshadow = { samples = 0 }\nsoak = { min_requests = 0, max_s = 0.5 }\n"
    )
    pack(folder)
    return folder


def fetched(bench: Bench, fleet: Fleet, folder: Path, found: Found) -> None:
    """A model with a changed head, and then nothing new."""
    for revision in (1, 2):
        packed = {path: path.stat().st_size for path in (fleet.folder / "repository/chunks").rglob("*.zst")}
        fleet.publish_unchecked(large_bundle(folder / f"large-{revision}", revision))
        new = [path for path in (fleet.folder / "repository/chunks").rglob("*.zst") if path not in packed]
        found.changed_bytes = sum(path.stat().st_size for path in new)
        Counting.sent = Counting.sent_chunks = 0
        bench.call("Pin", up.PinRequest(model="large", revision=revision), up.PinResponse)
        bench.wait(lambda model, at=revision: model.phase == "idle" and model.serving == at, "large")
        found.head_bytes, found.head_chunk_bytes = Counting.sent, Counting.sent_chunks
    bench.look()
    Counting.sent = 0
    bench.look()
    found.poll_bytes = Counting.sent


def measure(folder: Path, rounds: int) -> Found:
    """Everything, below `folder`."""
    device, fleet, found = Device(folder / "device"), Fleet(folder / "fleet"), Found()
    fleet.trusted_by(device.root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(fleet.folder / "repository")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = device.root / "etc/edged/edged.toml.d/with-http.toml"
    settings.write_text(f'[update]\nrepository = "http://127.0.0.1:{server.server_port}"\n')
    for bundle in BUNDLES.values():
        fleet.publish_unchecked(bundle)
    try:
        device.start()
        with Bench(device) as bench:
            bench.look()
            flips(bench, found, rounds)
            backs(bench, found, rounds)
            fetched(bench, fleet, folder, found)
        found.requests = len(bench.asked)
    finally:
        device.end()
        server.shutdown()
        server.server_close()
    return found


def judge(found: Found) -> list[Verdict]:
    """The design's budgets for updates."""
    note = (
        f"{found.before_p99_ms:.2f} ms before, {found.trial_p99_ms:.2f} ms while the new revision loads and is tried, "
        f"{found.flip_p99_ms:.2f} ms around the flip; {found.requests} requests, 0 failed"
    )
    head = found.head_bytes / found.changed_bytes
    beside = found.head_bytes - found.head_chunk_bytes
    fetched_note = f"{found.changed_bytes} bytes had changed; {found.head_chunk_bytes} in chunks came, {beside} beside"
    kept = max(abs(size) for size in found.kept_bytes) / MIB
    return [
        Verdict("p99 around a flip, times that before", "×", 1.5, found.flip_p99_ms / found.before_p99_ms, note),
        Verdict("going back, from the call to the last answer, longest", "ms", 100, max(found.back_ms)),
        Verdict("fetched for a changed head, times the changed chunks", "×", 1.05, head, fetched_note),
        Verdict("an idle poll", "bytes", 2048, found.poll_bytes),
        Verdict("front's memory after an update and the way back, most", "MiB", 2, kept),
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured")
    chosen = parser.parse_args()
    processes.end_on_sigterm()
    out = report.console()
    here = machine.read()
    report.machine(out, here)
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        found = measure(Path(folder), 3 if chosen.quick else 10)
    verdicts = judge(found)
    report.verdicts(out, verdicts)
    if chosen.json:
        chosen.json.write_bytes(report.as_json({"machine": here, "updates": found, "verdicts": verdicts}))


if __name__ == "__main__":
    main()
