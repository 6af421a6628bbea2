"""What becomes of requests when twice as many come as can be answered, beside four fifths of what can."""

from __future__ import annotations

import contextlib
import itertools
import os
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
CHANCE, EVEN = "arriving by chance", "arriving evenly"

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

    arrivals: str
    sustained_per_s: float
    below: Seen
    above: Seen


def measure(server: Server, model: Model, rounds: int, seconds: float, load: Cores) -> list[Round]:
    """Asks a server that has started; what it can carry is found anew in each round, since machines change.

    A round begins when the one before is forgotten: edged takes less for a while once it had to turn somebody away.
    """
    target = server.target(model)
    found: list[Round] = []
    for seed, arrivals in itertools.product(map(str, range(rounds)), (CHANCE, EVEN)):
        time.sleep(FLAT_S if found else 0)
        seen = GrpcClient(load).run(target, CALLERS, seconds, Meter(server.pid))
        if not seen.answered:
            continue
        per_s = seen.answered / seen.elapsed_s
        asked = seed if arrivals == CHANCE else ""
        below, above = (_open_loop(target, per_s * share, seconds, load, asked) for share in (BELOW, ABOVE))
        found.append(Round(arrivals, per_s, below, above))
    return found


def _open_loop(target: Target, rate: float, seconds: float, load: Cores, seed: str) -> Seen:
    module = [sys.executable, "-m", "benchmarks.programs.open_loop"]
    arguments = [*module, target.address, target.path, target.request, str(rate), str(seconds), str(LEAD_S), seed]
    limit_s = LEAD_S + seconds + 2 * PATIENCE_S
    with pinned(load):
        done = subprocess.run(
            arguments, check=True, capture_output=True, cwd=REPO, timeout=limit_s, preexec_fn=_go_first
        )
    return msgspec.json.decode(done.stdout, type=Seen)


def _go_first() -> None:
    """A core for which the generator waits is no time that the server took."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def judge(rounds: list[Round]) -> list[Verdict]:
    """The design's budgets for overload, medians over the rounds."""
    return [verdict for arrivals in (CHANCE, EVEN) for verdict in _judge(rounds, arrivals)]


def _judge(rounds: list[Round], arrivals: str) -> list[Verdict]:
    rounds = [each for each in rounds if each.arrivals == arrivals]
    slower = [each.above.answered_p99_us / each.below.answered_p99_us for each in rounds if each.below.answered]
    refusals = [each.above.refused_p99_us / 1000 for each in rounds if each.above.refused]
    failed = sum(each.below.failed + each.above.failed for each in rounds)
    at_first = [each.above.early_p99_us / each.below.answered_p99_us for each in rounds if each.below.answered]
    began = f"{median(at_first):.1f} in its first {LEAD_S:g} s" if at_first else ""
    share = f"{sum(each.above.refused for each in rounds)} refused, {failed} failed"
    if below := sum(each.below.refused for each in rounds):
        began += f"; {below} of {below + sum(each.below.answered for each in rounds)} refused at 80 %"
    ratio = median(slower) if slower else None
    return [
        Verdict(f"convnet, {arrivals}: p99 at twice what can be carried, by that at 80 %", "×", 2, ratio, began),
        Verdict(f"convnet, {arrivals}: a refusal, p99", "ms", 5, median(refusals) if refusals else None, share),
    ]
