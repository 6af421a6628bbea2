"""One request, to see whether a server answers at all."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.models import REPO
from benchmarks.servers import ServerError, Target

PATIENCE_S = 120.0


def command(target: Target, callers: str, seconds: float) -> list[str]:
    """How the client is started: see programs/client.py."""
    module = [sys.executable, "-m", "benchmarks.programs.client"]
    return [*module, target.address, target.path, target.request, callers, str(seconds)]


def once(target: Target) -> int:
    """Asks once, when the server is there; gives the length of the answer. Raises ServerError."""
    done = subprocess.run(
        command(target, "--once", 0), check=False, capture_output=True, text=True, cwd=REPO, timeout=PATIENCE_S
    )
    if done.returncode != 0:
        details = [line.strip() for line in done.stderr.splitlines() if "details = " in line]
        raise ServerError(details[0] if details else done.stderr[-500:])
    return int(done.stdout)
