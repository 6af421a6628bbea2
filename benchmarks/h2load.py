"""nghttp2's h2load, in C: it asks faster than any Python client, and sees no gRPC status."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.load import PATIENCE_S, Answered, Meter
from benchmarks.measure import percentile
from benchmarks.models import Model
from benchmarks.processes import Cores, pinned
from benchmarks.servers import Target

# gRPC's frame before a message: not compressed, and the length.
_FRAME_BYTES = 5
_LARGEST_BYTES = 16 * 1024


class H2Load:
    """One run of h2load a round."""

    name = "h2load"

    def __init__(self, cores: Cores) -> None:
        self._cores = cores

    @staticmethod
    def installed() -> bool:
        """Debian has it in the package nghttp2-client."""
        return shutil.which("h2load") is not None

    def suits(self, model: Model) -> bool:
        """It sends large requests in pieces of 16 KiB, and a server wakes up for each: that would be measured."""
        return model.request_bytes <= _LARGEST_BYTES

    def run(self, target: Target, callers: int, seconds: float, meter: Meter) -> Answered:
        """Asks for `seconds`; what is under way then is given up."""
        with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
            log, body = Path(folder, "log"), Path(folder, "body")
            request = Path(target.request).read_bytes()
            body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
            command = arguments(target, callers, seconds, body, log)
            with meter.running(), pinned(self._cores):
                done = subprocess.run(
                    command, check=False, capture_output=True, text=True, timeout=seconds + PATIENCE_S
                )
            if done.returncode != 0 or not log.exists():
                return Answered(problem=f"h2load: {(done.stderr or done.stdout).strip()[-200:]}")
            return answers(done.stdout, log.read_text(), target.answer_bytes, seconds)


def arguments(target: Target, callers: int, seconds: float, body: Path, log: Path) -> list[str]:
    """h2load as a gRPC client: one connection, `callers` streams at once, the same request again and again."""
    command = ["h2load", "--clients=1", "--threads=1", f"--max-concurrent-streams={callers}"]
    command += [f"--duration={round(seconds * 1000)}ms", f"--data={body}", f"--log-file={log}"]
    command += ["--header=content-type: application/grpc", "--header=te: trailers"]
    if target.address.startswith("unix:"):
        return [*command, f"--base-uri={target.address}", f"http://localhost{target.path}"]
    return [*command, f"http://{target.address}{target.path}"]


def answers(printed: str, log: str, answer_bytes: int, seconds: float) -> Answered:
    """What h2load saw: from its log, a line a request, of when it began, its status, and the µs that it took.

    HTTP's status is 200 for gRPC's failures too; those carry no message, so the bytes of all answers tell.
    """
    took_us = sorted(float(fields[2]) for line in log.splitlines() if (fields := line.split())[1] == "200")
    traffic = next((line for line in printed.splitlines() if line.startswith("traffic:")), "")
    data_bytes = int(traffic.rpartition("(")[2].partition(")")[0] or 0)
    wanted = len(took_us) * (_FRAME_BYTES + answer_bytes)
    if data_bytes < wanted:
        problem = f"{data_bytes} bytes of answers came to h2load, not {wanted}: some were errors"
        return Answered(failed=len(took_us), elapsed_s=seconds, problem=problem)
    return Answered(
        answered=len(took_us),
        elapsed_s=seconds,
        p50_us=percentile(took_us, 50),
        p90_us=percentile(took_us, 90),
        p99_us=percentile(took_us, 99),
    )
