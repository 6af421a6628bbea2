"""What edged adds to a model's own computing at saturation, beside onnxruntime in process, which runs the same batches.

Both have the same core, in turn. What is compared is the CPU time of all of a server's processes for each row.
"""

from __future__ import annotations

from statistics import median

import msgspec

from benchmarks import engine
from benchmarks.budgets import Verdict
from benchmarks.load import GrpcClient, Meter
from benchmarks.models import Model
from benchmarks.processes import Plan
from benchmarks.servers import Edged

CALLERS = 16


class Round(msgspec.Struct, frozen=True):
    """One round."""

    edged_us: float
    """CPU time for each row."""
    engine_us: float
    batches: dict[int, int]
    """How many edged ran, by their rows."""


def measure(server: Edged, model: Model, rounds: int, seconds: float, plan: Plan) -> list[Round]:
    """Asks a server that has started with requests of one row, and has the engine run the batches that it made."""
    client, target = GrpcClient(plan.load), server.target(model)
    client.run(target, CALLERS, seconds, Meter(server.pid))  # how large batches are worth making is learned first
    found = []
    for _ in range(rounds):
        meter, before = Meter(server.pid), server.batches(model)
        seen = meter.sample(client.run(target, CALLERS, seconds, meter))
        made = {size: count - before.get(size, 0) for size, count in server.batches(model).items()}
        made = {size: count for size, count in made.items() if count}
        if seen.answered:
            found.append(Round(seen.cpu_us, engine.sample(model, seconds, plan.server, made).cpu_us, made))
    return found


def judge(model: Model, rounds: list[Round]) -> list[Verdict]:
    """The design's budget, the median over the rounds."""
    more = sorted(100 * (each.edged_us / each.engine_us - 1) for each in rounds)
    note = f"{more[0]:.1f} to {more[-1]:.1f}, {_rows(rounds):.1f} rows a batch" if more else ""
    what = f"{model.name}, {CALLERS} callers: CPU beyond that of onnxruntime in process with the same batches"
    return [Verdict(what, "%", 3, median(more) if more else None, note)]


def _rows(rounds: list[Round]) -> float:
    batches = sum(sum(each.batches.values()) for each in rounds)
    return sum(size * count for each in rounds for size, count in each.batches.items()) / batches
