"""What becomes of requests when twice as many come as can be answered, beside four fifths of what can."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

import msgspec

from benchmarks.budgets import Verdict
from benchmarks.load import PATIENCE_S, GrpcClient, Meter
from benchmarks.models import REPO, Model
from benchmarks.processes import Cores, pinned
from benchmarks.servers import Server, Target
from edged.serving.overload import FLAT_S

CALLERS = 16
BELOW, ABOVE = 0.8, 2.0

# A load lasts so long before it is measured: until a queue is full nothing tells it from callers that wait.
LEAD_S = 1.0


class Seen(msgspec.Struct, kw_only=True):
    """What programs/open_loop.py saw."""

    answered: int
    refused: int
    failed: int
    problem: str
    answered_p50_us: float
    answered_p99_us: float
    refused_p50_us: float
    refused_p99_us: float
    early_p99_us: float
    """Of what was answered of the first LEAD_S seconds, which counts nowhere else."""


class Round(msgspec.Struct, frozen=True):
    """One round: the load that can be carried, and what came of less and of more."""

    sustained_per_s: float
    below: Seen
    above: Seen


def measure(server: Server, model: Model, rounds: int, seconds: float, load: Cores) -> list[Round]:
    """Asks a server that has started; what it can carry is found anew in each round, since machines change.

    A round begins when the one before is forgotten: edged takes less for a while once it had to turn somebody away.
    """
    target = server.target(model)
    found = []
    for number in range(rounds):
        time.sleep(FLAT_S if number else 0)
        seen = GrpcClient(load).run(target, CALLERS, seconds, Meter(server.pid))
        if not seen.answered:
            continue
        per_s = seen.answered / seen.elapsed_s
        below, above = (_open_loop(target, per_s * share, seconds, load) for share in (BELOW, ABOVE))
        found.append(Round(per_s, below, above))
    return found


def _open_loop(target: Target, rate: float, seconds: float, load: Cores) -> Seen:
    module = [sys.executable, "-m", "benchmarks.programs.open_loop"]
    arguments = [*module, target.address, target.path, target.request, str(rate), str(seconds), str(LEAD_S)]
    with pinned(load):
        done = subprocess.run(
            arguments, check=True, capture_output=True, cwd=REPO, timeout=LEAD_S + seconds + 2 * PATIENCE_S
        )
    return msgspec.json.decode(done.stdout, type=Seen)


def judge(rounds: list[Round]) -> list[Verdict]:
    """The design's budgets for overload, medians over the rounds."""
    slower = [each.above.answered_p99_us / each.below.answered_p99_us for each in rounds if each.below.answered]
    refusals = [each.above.refused_p99_us / 1000 for each in rounds if each.above.refused]
    failed = sum(each.below.failed + each.above.failed for each in rounds)
    at_first = [each.above.early_p99_us / each.below.answered_p99_us for each in rounds if each.below.answered]
    began = f"{median(at_first):.1f} in its first {LEAD_S:g} s" if at_first else ""
    share = f"{sum(each.above.refused for each in rounds)} refused, {failed} failed"
    return [
        Verdict("p99 at twice what can be carried, by that at 80 %", "×", 2, median(slower) if slower else None, began),
        Verdict("a refusal, p99", "ms", 5, median(refusals) if refusals else None, share),
    ]
