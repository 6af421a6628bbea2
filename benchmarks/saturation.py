"""Measures what edged adds to a convnet's own computing at saturation, and what the least server with a gRPC does.

docs/benchmarks.md explains what it prints. It fails when edged does not run or answers wrongly, never because of a
number.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

import grpc
import msgspec
from msgspec import structs

from benchmarks import engine, machine, memory, models, processes, report
from benchmarks.ask import once
from benchmarks.budgets import Verdict
from benchmarks.load import GrpcClient, Meter
from benchmarks.models import PATIENT, Model
from benchmarks.processes import Plan
from benchmarks.regions import register, shared_request
from benchmarks.servers import Edged, Inline, Server, ServerError, Target
from edged._pb.inference import grpc_service_pb2 as pb
from edged.client import SharedRegion

CALLERS = 16
SENT, SHARED = "image sent", "image in shared memory"
MODELS = ("convnet", PATIENT)
BUDGET_PERCENT = 3.0


class Round(msgspec.Struct, frozen=True):
    """One round of one way to ask one model, by CPU time for each row."""

    model: str
    way: str
    edged_us: float
    """Of all its processes."""
    front_us: float
    """Of its front, which is in it."""
    engine_us: float
    """Of onnxruntime in process, with the same batches."""
    inline_us: float
    """Of the least gRPC server that computes, row by row: see programs/inline.py."""
    batches: dict[int, int]
    """How many edged ran, by their rows."""

    @property
    def more_percent(self) -> float:
        """What edged takes beyond the engine."""
        return 100 * (self.edged_us / self.engine_us - 1)

    @property
    def more_than_inline_percent(self) -> float:
        """What edged takes beyond the least gRPC server that computes."""
        return 100 * (self.edged_us / self.inline_us - 1)


def measure(folder: Path, rounds: int, seconds: float) -> list[Round]:
    """All rounds of both models and both ways, in turn. Raises ServerError."""
    built = models.build(folder / "models")
    asked = [built[name] for name in MODELS]
    model = asked[0]
    plan = processes.plan(both=False)
    places = [folder / name for name in ("edged", "inline")]
    for place in places:
        place.mkdir()
    edged, inline = Edged(places[0], asked), Inline(places[1], [model])
    image = pb.ModelInferRequest.FromString(Path(model.request).read_bytes()).raw_input_contents[0]
    with SharedRegion(f"bench-of-saturation-{os.getpid()}", len(image), group=None) as region:
        try:
            edged.start(plan.server)
            inline.start(plan.server)
            ways: list[tuple[str, Model, Target]] = []
            for each in asked:
                sent = edged.target(each)
                if not ways:
                    register(sent, region)
                shared = structs.replace(sent, request=str(shared_request(each, folder, region)))
                ways += [(SENT, each, sent), (SHARED, each, shared)]
            for _, each, target in ways:
                if (length := once(target)) != each.answer_bytes:
                    raise ServerError(f"edged answers with {length} bytes, not {each.answer_bytes}")
                _ask(edged, target, seconds, plan)  # how large batches are worth making is learned first
            return [
                _round(way, edged, inline, each, target, seconds, plan)
                for _ in range(rounds)
                for way, each, target in ways
            ]
        finally:
            edged.end()
            inline.end()


def _round(way: str, edged: Edged, inline: Inline, model: Model, target: Target, seconds: float, plan: Plan) -> Round:
    before = edged.batches(model)
    cpu_us, front_us = _ask(edged, target, seconds, plan)
    made = {rows: count - before.get(rows, 0) for rows, count in edged.batches(model).items()}
    made = {rows: count for rows, count in made.items() if count}
    alone = engine.sample(model, seconds, plan.server, made)
    floor = structs.replace(inline.target(model), request=target.request)
    inline_us, _ = _ask(inline, floor, seconds, plan)
    return Round(model.name, way, cpu_us, front_us, alone.cpu_us, inline_us, made)


def _ask(server: Server, target: Target, seconds: float, plan: Plan) -> tuple[float, float]:
    """The CPU time of all its processes, and of its front, for each request of one row. Raises ServerError."""
    meter = Meter(server.pid)
    seen = meter.sample(GrpcClient(plan.load).run(target, CALLERS, seconds, meter))
    if not seen.answered:
        raise ServerError(f"{server.name} answered nothing: {seen.problem}")
    return seen.cpu_us, seen.front_us


def judge(found: list[Round]) -> list[Verdict]:
    """The design's budget for each model and way, beyond the engine and beyond what no gRPC server saves, medians."""
    verdicts = []
    for model, way in itertools.product(MODELS, (SENT, SHARED)):
        rounds = [each for each in found if (each.model, each.way) == (model, way)]
        front_us, engine_us, inline_us = (
            median(getattr(each, name) for each in rounds) for name in ("front_us", "engine_us", "inline_us")
        )
        rows = sum(size * count for each in rounds for size, count in each.batches.items())
        batches = sum(sum(each.batches.values()) for each in rounds)
        a_row = f"µs a row: engine {engine_us:.0f}, front {front_us:.0f}; {rows / batches:.1f} rows a batch"
        least = f"which itself takes {100 * (inline_us / engine_us - 1):.1f} % beyond onnxruntime"
        for beyond, percents, note in (
            ("onnxruntime in process", sorted(each.more_percent for each in rounds), a_row),
            ("the least gRPC server with it", sorted(each.more_than_inline_percent for each in rounds), least),
        ):
            what = f"{model}, {CALLERS} callers, {way}: CPU beyond {beyond}"
            spread = f"{percents[0]:.1f} to {percents[-1]:.1f}; {note}"
            verdicts.append(Verdict(what, "%", BUDGET_PERCENT, median(percents), spread))
    return verdicts


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    memory.add_options(parser)
    chosen = parser.parse_args()
    processes.end_on_sigterm()
    out = report.console()
    here = machine.read()
    report.machine(out, here)
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        try:
            found = measure(Path(folder), chosen.rounds or (2 if chosen.quick else 5), 1.0 if chosen.quick else 4.0)
        except (ServerError, grpc.RpcError) as error:
            sys.exit(str(error))
    verdicts = judge(found)
    report.verdicts(out, verdicts)
    if chosen.json:
        chosen.json.write_bytes(report.as_json({"machine": here, "saturation": found, "budgets": verdicts}))


if __name__ == "__main__":
    main()
