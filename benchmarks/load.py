"""Load generators: each asks one server for some time, and what that cost is measured around it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from benchmarks import procfs
from benchmarks.measure import Sample, percentile
from benchmarks.models import REPO, Model
from benchmarks.processes import Cores, Plan, pinned
from benchmarks.servers import Server, Target

PATIENCE_S = 60.0

# gRPC's frame before a message: not compressed, and the length.
FRAME_BYTES = 5


class Answered(msgspec.Struct, kw_only=True):
    """What a load generator saw."""

    answered: int = 0
    failed: int = 0
    elapsed_s: float = 0.0
    p50_us: float = 0.0
    p90_us: float = 0.0
    p99_us: float = 0.0
    problem: str = ""


class Meter:
    """Measures what a server's processes use while `running`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.spent: procfs.Spent | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the load, and nothing else."""
        before = procfs.snapshot(self.pid)
        yield
        self.spent = procfs.spent(before, procfs.snapshot(self.pid))

    def sample(self, seen: Answered) -> Sample:
        """What was measured, for each request that was answered."""
        count = seen.answered
        if not count or self.spent is None:
            return Sample(answered=0, failed=seen.failed, elapsed_s=seen.elapsed_s, cpu_us=0.0, problem=seen.problem)
        return Sample(
            **msgspec.structs.asdict(seen),
            cpu_us=1e6 * self.spent.cpu_s / count,
            front_us=1e6 * self.spent.cpu_s_of.get(self.pid, 0.0) / count,
            switches=self.spent.switches / count,
        )


class Generator(Protocol):
    """One way to ask."""

    name: str

    def run(self, target: Target, callers: int, seconds: float, meter: Meter) -> Answered:
        """Asks from `callers` at once for `seconds`, over one connection."""


class GrpcClient:
    """The Python client of client.py: it waits for its answers as applications do, and tells each failure."""

    name = "grpc"

    def __init__(self, cores: Cores) -> None:
        self._cores = cores

    def run(self, target: Target, callers: int, seconds: float, meter: Meter) -> Answered:
        arguments = _client(target, str(callers), seconds)
        with pinned(self._cores), tempfile.TemporaryFile() as errors:
            with subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=REPO
            ) as client:
                assert client.stdin
                assert client.stdout
                try:
                    line = client.stdout.readline()
                    with meter.running():
                        if line:
                            client.stdin.write(b"go\n")
                            client.stdin.flush()
                        line = client.stdout.readline()
                finally:
                    client.stdin.close()
                    client.kill()
            if line:
                return msgspec.json.decode(line, type=Answered)
            errors.seek(0)
            words = errors.read().decode(errors="replace").split("\n")
            return Answered(problem=f"the client ended without a result: {' '.join(words[-3:]).strip()}")


class H2Load:
    """nghttp2's h2load, in C: it asks faster than any Python client, and sees no gRPC status.

    An answer that is not as long as it should be is none.
    """

    name = "h2load"

    def __init__(self, cores: Cores) -> None:
        self._cores = cores

    @staticmethod
    def installed() -> bool:
        """Debian has it in the package nghttp2-client."""
        return shutil.which("h2load") is not None

    def run(self, target: Target, callers: int, seconds: float, meter: Meter) -> Answered:
        with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
            log, body = Path(folder, "log"), Path(folder, "body")
            request = Path(target.request).read_bytes()
            body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
            arguments = h2load_arguments(target, callers, seconds, body, log)
            with meter.running(), pinned(self._cores):
                done = subprocess.run(
                    arguments, check=False, capture_output=True, text=True, timeout=seconds + PATIENCE_S
                )
            if done.returncode != 0 or not log.exists():
                return Answered(problem=f"h2load: {(done.stderr or done.stdout).strip()[-200:]}")
            return h2load_answers(done.stdout, log.read_text(), target.answer_bytes, seconds)


class Engine:
    """onnxruntime alone, on the core that servers have: not a server, and asked by nobody."""

    name = "onnxruntime in process"

    def __init__(self, plan: Plan) -> None:
        self._cores = plan.server

    def sample(self, model: Model, seconds: float) -> Sample:
        """Runs a model for `seconds`."""
        arguments = [sys.executable, "-m", "benchmarks.engine", model.onnx, model.request, str(seconds)]
        with pinned(self._cores):
            printed = subprocess.run(
                arguments, check=True, capture_output=True, cwd=REPO, timeout=seconds + PATIENCE_S
            ).stdout
        found: dict[str, Any] = msgspec.json.decode(printed)
        runs = found["runs"]
        return Sample(answered=runs, elapsed_s=found["elapsed_s"], cpu_us=1e6 * found["cpu_s"] / runs)


def check(server: Server, target: Target) -> str:
    """Asks once, when the server is there; gives what is wrong with the answer, or nothing."""
    arguments = _client(target, "--once", 0)
    done = subprocess.run(
        arguments, check=False, capture_output=True, text=True, cwd=REPO, timeout=2 * PATIENCE_S
    )
    if done.returncode != 0:
        return f"{server.name} does not answer: {' '.join(done.stderr.split()[-40:])}"
    if (length := int(done.stdout)) != target.answer_bytes:
        return f"{server.name} answers with {length} bytes, not {target.answer_bytes}"
    return ""


def h2load_arguments(target: Target, callers: int, seconds: float, body: Path, log: Path) -> list[str]:
    """h2load as a gRPC client: one connection, `callers` streams at once, the same request again and again."""
    arguments = ["h2load", "--clients=1", "--threads=1", f"--max-concurrent-streams={callers}"]
    arguments += [f"--duration={round(seconds * 1000)}ms", f"--data={body}", f"--log-file={log}"]
    arguments += ["--header=content-type: application/grpc", "--header=te: trailers"]
    if target.address.startswith("unix:"):
        return [*arguments, f"--base-uri={target.address}", f"http://localhost{target.path}"]
    return [*arguments, f"http://{target.address}{target.path}"]


def h2load_answers(printed: str, log: str, answer_bytes: int, seconds: float) -> Answered:
    """What h2load saw: from its log, a line a request, of when it began, its status, and the µs that it took.

    HTTP's status is 200 for gRPC's failures too; those carry no message, so the bytes of all answers tell.
    """
    took_us = sorted(float(fields[2]) for line in log.splitlines() if (fields := line.split())[1] == "200")
    traffic = next((line for line in printed.splitlines() if line.startswith("traffic:")), "")
    data_bytes = int(traffic.rpartition("(")[2].partition(")")[0] or 0)
    wanted = len(took_us) * (FRAME_BYTES + answer_bytes)
    if data_bytes < wanted:
        problem = f"{data_bytes} bytes of answers came to h2load, not {wanted}: some were errors"
        return Answered(failed=len(took_us), elapsed_s=seconds, problem=problem)
    return Answered(
        answered=len(took_us),
        elapsed_s=seconds,
        **{f"p{percent}_us": percentile(took_us, percent) for percent in (50, 90, 99)},
    )


def _client(target: Target, callers: str, seconds: float) -> list[str]:
    module = [sys.executable, "-m", "benchmarks.client"]
    return [*module, target.address, target.path, target.request, callers, str(seconds)]
