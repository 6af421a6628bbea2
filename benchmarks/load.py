"""Load generators: each asks one server for some time, and what that cost is measured around it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import msgspec

from benchmarks import procfs
from benchmarks.ask import command
from benchmarks.measure import Sample
from benchmarks.models import REPO, Model
from benchmarks.processes import Cores, pinned
from benchmarks.servers import Target

PATIENCE_S = 60.0


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

    def suits(self, model: Model) -> bool:
        """Whether it asks well enough for this model's requests."""

    def run(self, target: Target, callers: int, seconds: float, meter: Meter) -> Answered:
        """Asks from `callers` at once for `seconds`, over one connection."""


class GrpcClient:
    """The Python client of client.py: it waits for its answers as applications do, and tells each failure."""

    name = "grpc"

    def __init__(self, cores: Cores) -> None:
        self._cores = cores

    def suits(self, model: Model) -> bool:  # noqa: ARG002 - as the others
        """For every model."""
        return True

    def run(self, target: Target, callers: int, seconds: float, meter: Meter) -> Answered:
        """Asks for `seconds`; what is under way then is waited for."""
        arguments = command(target, str(callers), seconds)
        with pinned(self._cores), tempfile.TemporaryFile() as errors:
            with subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=REPO
            ) as client:
                assert client.stdin
                assert client.stdout
                try:
                    client.stdout.readline()  # it is warm
                    with meter.running():
                        with suppress(BrokenPipeError):  # it has ended: there is no line then
                            client.stdin.write(b"go\n")
                            client.stdin.close()
                        line = client.stdout.readline()
                finally:
                    client.kill()
            if line:
                return msgspec.json.decode(line, type=Answered)
            errors.seek(0)
            words = errors.read().decode(errors="replace").split("\n")
            return Answered(problem=f"the client ended without a result: {' '.join(words[-3:]).strip()}")
