"""Measures what a request costs edged, beside servers that do less and servers that do the same.

docs/benchmarks.md explains what it prints. It fails when edged does not run or answers wrongly, never because of a
number.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import budgets, machine, memory, models, overload, processes, procfs, report, rows
from benchmarks.ask import once
from benchmarks.footprint import Footprint
from benchmarks.h2load import H2Load
from benchmarks.load import Generator, GrpcClient
from benchmarks.models import NAMES, Model
from benchmarks.processes import Cores, Plan
from benchmarks.rivals import RIVALS
from benchmarks.servers import Echo, Edged, Server, ServerError


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    memory.add_options(parser)
    parser.add_argument("--seconds", type=float, help="how long each server is asked in each round (2; quick: 0.5)")
    parser.add_argument("--models", type=_names(NAMES), default=NAMES, metavar="A,B", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--load", type=_names(("grpc", "h2load")), default=(), help="grpc,h2load: all there are")
    parser.add_argument("--cores", choices=("one", "both"), default="one", help="the cores that servers may use")
    parser.add_argument("--against", type=_names(tuple(RIVALS)), default=(), help=", ".join(RIVALS))
    parser.add_argument("--no-overload", action="store_true", help="leave out what becomes of twice the load")
    parser.add_argument("--no-memory", action="store_true", help="leave start, memory and idling out")
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (2 if chosen.quick else 5)
    chosen.seconds = chosen.seconds or (0.5 if chosen.quick else 2.0)
    return chosen


def generators(wanted: Sequence[str], plan: Plan, out: Console) -> list[Generator]:
    """The load generators that are wanted and there."""
    found: list[Generator] = []
    if not wanted or "grpc" in wanted:
        found.append(GrpcClient(plan.load))
    if not wanted or "h2load" in wanted:
        if H2Load.installed():
            found.append(H2Load(plan.load))
        else:
            out.print("[yellow]h2load is not installed (Debian: nghttp2-client), so it is left out[/yellow]")
    return found


def start(servers: Sequence[Server], stack: contextlib.ExitStack, cores: Cores, out: Console) -> list[Server]:
    """Starts those that come up and answer, to be ended by `stack`; names the others.

    Raises ServerError when edged is among the others.
    """
    there = []
    for server in servers:
        stack.callback(server.end)
        try:
            server.start(cores)
            for model in server.models:
                target = server.target(model)
                if (length := once(target)) != target.answer_bytes:
                    raise ServerError(
                        f"{server.name} answers with {length} bytes for {model.name}, not {target.answer_bytes}"
                    )
        except ServerError as error:
            if isinstance(server, Edged):
                raise
            out.print(f"left out: {error}", style="yellow", markup=False)
            server.end()
        else:
            there.append(server)
    return there


def compare(
    folder: Path, asked: Sequence[Model], chosen: argparse.Namespace, out: Console
) -> tuple[list[rows.Row], list[report.Line], list[report.Resting]]:
    """Every row of every model, printed as soon as a model is done. Raises ServerError when edged does not serve."""
    plan = processes.plan(both=chosen.cores == "both")
    how = rows.Plan(chosen.rounds, chosen.seconds, plan.server)
    ways = generators(chosen.load, plan, out)
    kinds: list[type[Server]] = [Echo, Edged, *(RIVALS[name] for name in chosen.against)]
    found: list[rows.Row] = []
    shown: list[report.Line] = []
    with contextlib.ExitStack() as stack:
        servers = start([kind(_folder(folder, kind), asked) for kind in kinds], stack, plan.server, out)
        for model in asked:
            made = list(rows.measure(model, servers, ways, how))
            lines = [line for row in made for line in report.lines(row, Echo.name)]
            report.comparison(out, f"{model.name}: {model.request_bytes:,} bytes a request", lines)
            for problem in (problem for row in made for problem in row.problems):
                out.print(f"  {problem}", style="red", markup=False)
            found += made
            shown += lines
        rest = [resting(server) for server in servers]
    return found, shown, rest


def resting(server: Server) -> report.Resting:
    """A server's memory, now."""
    held = procfs.memories(procfs.tree(server.pid))
    pss = sum(each.pss for each in held.values())
    return report.Resting(server.name, server.ready_s, len(held), held[server.pid], pss)


def overloaded(folder: Path, model: Model, chosen: argparse.Namespace) -> list[overload.Round]:
    """What a convnet's callers see at twice what can be carried. Raises ServerError."""
    folder.mkdir()
    plan = processes.plan(both=True)
    server = Edged(folder, [model])
    try:
        server.start(plan.server)
        return overload.measure(server, model, chosen.rounds, 2 * chosen.seconds, plan.load)
    finally:
        server.end()


def main() -> None:
    """The command line."""
    chosen = arguments()
    processes.end_on_sigterm()
    out = report.console()
    here = machine.read()
    report.machine(out, here)
    parts: dict[str, object] = {"machine": here}
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
        folder = Path(name)
        try:
            if not chosen.no_memory:  # first, since what runs beside it would share its memory
                parts |= footprint(folder / "memory", chosen, out)
            built = models.build(folder / "models")
            found, shown, rest = compare(folder, [built[model] for model in chosen.models], chosen, out)
            flood = [] if chosen.no_overload else overloaded(folder / "overload", built["convnet"], chosen)
        except ServerError as error:
            sys.exit(str(error))
    report.resting(out, rest)
    verdicts = [*budgets.judge_rows(shown, Edged.name), *overload.judge(flood)]
    report.verdicts(out, verdicts)
    if chosen.json:
        parts |= {"rows": found, "summary": shown, "resting": rest, "overload": flood, "serving": verdicts}
        chosen.json.write_bytes(report.as_json(parts))


def footprint(folder: Path, chosen: argparse.Namespace, out: Console) -> dict[str, object]:
    """What edged costs when nothing is asked, and the budgets for it."""
    folder.mkdir()
    found: Footprint = memory.measure(folder, chosen.rounds, quick=chosen.quick)
    verdicts = budgets.judge(found)
    report.footprint(out, found)
    report.verdicts(out, verdicts)
    return {"footprint": found, "verdicts": verdicts}


def _folder(above: Path, kind: type[Server]) -> Path:
    place = above / kind.__name__.lower()
    place.mkdir()
    return place


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
