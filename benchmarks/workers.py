"""Measures what a further worker costs: the time to its first answer, its memory, and what stays when it has gone.

This process stands in for the front. docs/benchmarks.md explains what it prints. It fails when a worker does not load
or answer, never because of a number.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
import uvloop

from benchmarks import machine, memory, models, processes, procfs, report
from benchmarks.budgets import MIB, Verdict
from benchmarks.footprint import SETTLE_S
from benchmarks.models import Model
from edged.bundle.folder import read_manifest
from edged.bundle.manifest import Manifest, Variant
from edged.config.settings import Workers
from edged.events import EventLog
from edged.models.loading import Terms, start_worker
from edged.worker.messages import Form, InputPart
from edged.worker.process import Batch, Worker
from edged.worker.templates import Templates

# What stays after the first time belongs to the template: later ones must leave nothing.
WARM_UP = 2
STOP_S = 10.0


class Found(msgspec.Struct, frozen=True):
    """Of one engine; the template is warm, and shared by all its workers."""

    engine: str
    first_answer_ms: list[float]
    """From asking for a worker to its first answer: it was forked, loaded, warmed up and asked once."""
    over_model: list[int]
    """Private memory of each worker beyond the first, less its model's file, in bytes."""
    template_pss: int
    """With no worker to share with."""
    left: list[int]
    """Private bytes of this process and the template after each unloading, less those before the loading."""


async def measure(model: Model, engine: str, rounds: int) -> Found:
    """Loads, asks and unloads a model so often, then loads it thrice. Raises EdgedError."""
    manifest = read_manifest(Path(model.bundle))
    variant = msgspec.structs.replace(manifest.variants[0], runtime=engine)
    templates = Templates(EventLog(8))
    terms = Terms(settings=Workers(), make=templates.make)
    times, left = [], []
    try:
        for number in range(WARM_UP + rounds):
            before = sum(each.private for each in procfs.memories(procfs.tree(os.getpid())).values())
            worker, took_ms = await _answering(model, manifest, variant, terms)
            await worker.stop(STOP_S)
            await asyncio.sleep(0.2)
            after = sum(each.private for each in procfs.memories(procfs.tree(os.getpid())).values())
            if number >= WARM_UP:
                times.append(took_ms)
                left.append(after - before)
        alone = procfs.memories(procfs.tree(os.getpid()))
        template = max(each.pss for pid, each in alone.items() if pid != os.getpid())
        workers = [(await _answering(model, manifest, variant, terms))[0] for _ in range(3)]
        await asyncio.sleep(SETTLE_S)
        held = procfs.memories(procfs.tree(os.getpid()))
        over = [held[worker.pid].private - model.model_bytes for worker in workers[1:]]
        for worker in workers:
            await worker.stop(STOP_S)
    finally:
        await templates.stop()
    return Found(engine, times, over, template, left)


async def _answering(model: Model, manifest: Manifest, variant: Variant, terms: Terms) -> tuple[Worker, float]:
    """A worker that has answered once, and the milliseconds until then."""
    (asked,) = manifest.inputs
    shape = tuple(1 if size < 0 else size for size in asked.shape)
    content = bytes(math.prod(shape) * asked.datatype.size)
    batch = Batch(
        inputs=(asked.name,),
        outputs=tuple(spec.name for spec in manifest.outputs),
        members=[(InputPart(shape, len(content), Form.RAW),)],
        contents=[[content]],
        expected=(0,) * len(manifest.outputs),
    )
    began = time.monotonic()
    worker = await start_worker(Path(model.bundle), manifest, variant, terms)
    await worker.infer(batch, lambda answered, _: answered)
    return worker, (time.monotonic() - began) * 1000


def judge(found: Sequence[Found]) -> list[Verdict]:
    """The design's budgets for workers."""
    limits = {"onnxruntime": 8, "openvino": 16}
    verdicts = []
    for each in found:
        over, kept = max(each.over_model) / MIB, max(abs(size) for size in each.left) / MIB
        answers, quickest = each.first_answer_ms, f"quickest {min(each.first_answer_ms):.0f} ms"
        verdicts += [
            Verdict(f"{each.engine}: a worker's first answer, median", "ms", 50, median(answers), quickest),
            Verdict(f"{each.engine}: a further worker, private, over its model", "MiB", limits[each.engine], over),
            Verdict(f"{each.engine}: template, PSS", "MiB", 60, each.template_pss / MIB),
            Verdict(f"{each.engine}: memory that unloading leaves or frees, largest", "MiB", 2, kept),
        ]
    return verdicts


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    memory.add_options(parser)
    parser.add_argument("--engines", default="onnxruntime,openvino", metavar="A,B", help="of onnxruntime, openvino")
    chosen = parser.parse_args()
    processes.end_on_sigterm()
    out = report.console()
    here = machine.read()
    report.machine(out, here)
    rounds = chosen.rounds or (2 if chosen.quick else 10)
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        digits = models.build(Path(folder))["digits"]
        found = [uvloop.run(measure(digits, engine, rounds)) for engine in chosen.engines.split(",")]
    verdicts = judge(found)
    report.verdicts(out, verdicts)
    if chosen.json:
        chosen.json.write_bytes(report.as_json({"machine": here, "workers": found, "verdicts": verdicts}))


if __name__ == "__main__":
    main()
