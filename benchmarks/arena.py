"""Measures from which size on a tensor is cheaper through the arena than through the socket: `arena.LARGE_BYTES`.

This process stands in for the front, and both it and the worker run on one core. What is printed is the CPU time of
both for a request of so many bytes in and as many out, and the arena's divided by the socket's, round by round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec
import uvloop
from rich.table import Table

from benchmarks import machine, memory, models, processes, procfs, report
from benchmarks.models import Model
from edged.bundle.folder import read_manifest
from edged.config.settings import Workers
from edged.models.loading import Terms, start_worker
from edged.worker import placing
from edged.worker.messages import Form, InputPart
from edged.worker.process import Batch, Worker

ROW_BYTES = 64
KIB = (16, 32, 64, 128, 256, 512, 1024, 2048)
WAYS = {"socket": 2**40, "arena": 1}


class Size(msgspec.Struct, frozen=True):
    """CPU µs a request by way, round by round."""

    kib: int
    spent_us: dict[str, list[float]]


async def measure(model: Model, rounds: int, seconds: float) -> list[Size]:
    """Asks the identity model with as many rows as make the size. Raises EdgedError."""
    manifest = msgspec.structs.replace(read_manifest(Path(model.bundle)), max_batch_size=max(KIB) * 1024 // ROW_BYTES)
    worker = await start_worker(Path(model.bundle), manifest, manifest.variants[0], Terms(settings=Workers()))
    try:
        found = [Size(kib, {way: [] for way in WAYS}) for kib in KIB]
        for _ in range(rounds):
            for size in found:
                for way, large_bytes in WAYS.items():
                    placing.LARGE_BYTES = large_bytes
                    size.spent_us[way].append(await _ask(worker, size.kib * 1024, seconds))
    finally:
        await worker.stop(10)
    return found


async def _ask(worker: Worker, size: int, seconds: float) -> float:
    part = InputPart((size // ROW_BYTES, ROW_BYTES // 4), size, Form.RAW)
    batch = Batch(inputs=("x",), outputs=("y",), members=[(part,)], contents=[[bytes(size)]], expected=(size,))
    for _ in range(3):
        await worker.infer(batch, lambda _, parts: bytes(parts[0][0]))
    count, end = 0, time.monotonic() + seconds
    began_ns = time.process_time_ns() + _ran_ns(worker.pid)
    while time.monotonic() < end:
        await worker.infer(batch, lambda _, parts: bytes(parts[0][0]))
        count += 1
    return (time.process_time_ns() + _ran_ns(worker.pid) - began_ns) / 1000 / count


def _ran_ns(pid: int) -> int:
    return sum(int(path.read_text().split()[0]) for path in (procfs.PROC / str(pid) / "task").glob("*/schedstat"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    memory.add_options(parser)
    chosen = parser.parse_args()
    processes.end_on_sigterm()
    out = report.console()
    here = machine.read()
    report.machine(out, here)
    rounds, seconds = chosen.rounds or (2 if chosen.quick else 7), 0.05 if chosen.quick else 0.15
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        identity = models.build(Path(folder))["identity"]
        with processes.pinned(processes.plan(both=False).server):
            found = uvloop.run(measure(identity, rounds, seconds))
    table = Table("KiB", "socket µs", "arena µs", "arena ÷ socket")
    for size in found:
        socket, arena = size.spent_us["socket"], size.spent_us["arena"]
        ratio = median(ours / theirs for ours, theirs in zip(arena, socket, strict=True))
        table.add_row(str(size.kib), f"{median(socket):.0f}", f"{median(arena):.0f}", f"{ratio:.2f}")
    out.print(table)
    if chosen.json:
        chosen.json.write_bytes(report.as_json({"machine": here, "arena": found}))


if __name__ == "__main__":
    main()
