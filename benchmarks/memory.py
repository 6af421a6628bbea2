"""Measures what edged costs when nothing is asked: its start, its memory with 1, 2 and 4 models, and its idling.

docs/benchmarks.md explains what it prints. It fails when edged does not run, never because of a number.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import budgets, footprint, machine, models, processes, report
from benchmarks.footprint import Footprint


def add_options(parser: argparse.ArgumentParser) -> None:
    """What memory.py and serving.py have in common."""
    parser.add_argument("--rounds", type=int, help="how often each thing is measured (5; quick: 2)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all that was measured")


def measure(folder: Path, rounds: int, *, quick: bool) -> Footprint:
    """With everything below `folder`. Raises ServerError."""
    built = models.build(folder / "models", smalls=max(footprint.COUNTS))
    smalls = [model for model in built.values() if model.name.startswith(models.SMALL)]
    cores = processes.plan(both=False).server
    return footprint.measure(folder, smalls, cores, starts=rounds, idle_s=3.0 if quick else 10.0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    chosen = parser.parse_args()
    processes.end_on_sigterm()
    out = report.console()
    here = machine.read()
    report.machine(out, here)
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        found = measure(Path(folder), chosen.rounds or (2 if chosen.quick else 5), quick=chosen.quick)
    report.footprint(out, found)
    verdicts = budgets.judge(found)
    report.verdicts(out, verdicts)
    if chosen.json:
        chosen.json.write_bytes(report.as_json({"machine": here, "footprint": found, "verdicts": verdicts}))


if __name__ == "__main__":
    main()
