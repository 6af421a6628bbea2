"""What was measured, as tables for people and as JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.budgets import MIB, Verdict
from benchmarks.footprint import Footprint
from benchmarks.machine import Machine
from benchmarks.measure import Sample, Spread, ratios, spread
from benchmarks.procfs import Memory
from benchmarks.rows import Row

WIDTH = 150


class Line(msgspec.Struct, frozen=True):
    """One server in one row, over all rounds. None where nothing was answered."""

    model: str
    load: str
    callers: int
    server: str
    cpu_us: Spread | None
    ratio: Spread | None
    """Its CPU time per request divided by the floor's, round by round; None for the floor itself."""
    front_us: Spread | None
    per_s: Spread | None
    p50_us: Spread | None
    p90_us: Spread | None
    p99_us: Spread | None
    switches: Spread | None
    requests_per_batch: float | None


class Resting(msgspec.Struct, frozen=True):
    """A server's memory after it was asked everything."""

    server: str
    ready_s: float
    processes: int
    first: Memory
    """The process that was started."""
    pss: int
    """All its processes together."""


def lines(row: Row, floor: str) -> list[Line]:
    """A row's servers, `floor` being what the others are compared with."""
    found = []
    for server, samples in row.samples.items():
        good = [sample for sample in samples if sample.answered]
        counted = row.counted.get(server)

        def over(name: str, good: Sequence[Sample] = good) -> Spread | None:
            return spread([getattr(sample, name) for sample in good])

        found.append(
            Line(
                model=row.model,
                load=row.load,
                callers=row.callers,
                server=server,
                cpu_us=over("cpu_us"),
                ratio=ratios(samples, row.samples.get(floor, ())) if server != floor else None,
                front_us=over("front_us"),
                per_s=over("per_s"),
                p50_us=over("p50_us"),
                p90_us=over("p90_us"),
                p99_us=over("p99_us"),
                switches=over("switches"),
                requests_per_batch=counted.ok / counted.batches if counted and counted.batches else None,
            )
        )
    return found


def console() -> Console:
    """Standard output; what is no terminal is wide enough for every table."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def machine(out: Console, here: Machine) -> None:
    """Where this is."""
    versions = ", ".join(f"{name} {version}" for name, version in here.packages.items())
    out.print(f"{here.processor}, {here.cores} cores, kernel {here.kernel}, Python {here.python}; {versions}")
    if here.load_average > here.cores / 2:
        out.print(f"[yellow]load average {here.load_average}: others work here too; trust the ratios only[/yellow]")


def comparison(out: Console, title: str, found: Sequence[Line]) -> None:
    """The servers of one model, side by side."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("load", "callers", "server"):
        table.add_column(name, no_wrap=True)
    for name in ("CPU µs", "low–high", "× floor", "front µs", "/s", "p50 ms", "p90 ms", "p99 ms", "switches", "batch"):
        table.add_column(name, justify="right", no_wrap=True)
    before: tuple[str, int] | None = None
    for line in found:
        group = (line.load, line.callers)
        if before not in (None, group):
            table.add_section()
        table.add_row(
            line.load if group != before else "",
            str(line.callers) if group != before else "",
            f"[bold]{line.server}[/bold]" if line.server == "edged" else line.server,
            _median(line.cpu_us),
            _range(line.cpu_us),
            _median(line.ratio),
            _median(line.front_us),
            _median(line.per_s),
            _median(line.p50_us, 1e-3),
            _median(line.p90_us, 1e-3),
            _median(line.p99_us, 1e-3),
            _median(line.switches),
            _number(line.requests_per_batch),
        )
        before = group
    out.print(table)


def resting(out: Console, found: Sequence[Resting]) -> None:
    """The servers' memory."""
    table = Table(title="Start, and memory after all this", title_justify="left", title_style="bold")
    table.add_column("server")
    for name in ("ready s", "processes", "first: PSS MiB", "private MiB", "all: PSS MiB"):
        table.add_column(name, justify="right")
    for each in found:
        sizes = (each.first.pss, each.first.private, each.pss)
        table.add_row(each.server, f"{each.ready_s:.2f}", str(each.processes), *(_mib(size) for size in sizes))
    out.print(table)


def footprint(out: Console, found: Footprint) -> None:
    """What edged takes when nothing is asked."""
    table = Table(title="Memory with nothing asked", title_justify="left", title_style="bold")
    for name, justify in (("models", "right"), ("process", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    for name in ("PSS MiB", "private MiB", "model MiB", "private over it"):
        table.add_column(name, justify="right")
    for held in found.held:
        table.add_section()
        named = {"front": held.front, "template": held.template, **held.others}
        for index, (name, memory) in enumerate(named.items()):
            if memory is not None:
                table.add_row(str(held.models) if not index else "", name, _mib(memory.pss), _mib(memory.private))
        for worker in held.workers:
            over = _mib(worker.memory.private - worker.model_bytes)
            sizes = (worker.memory.pss, worker.memory.private, worker.model_bytes)
            table.add_row("", f"worker {worker.model}", *(_mib(size) for size in sizes), over)
    out.print(table)
    table = Table(title="Idle with one model", title_justify="left", title_style="bold")
    table.add_column("process")
    for name in ("% of a core", "wakes/s", "busiest thread's"):
        table.add_column(name, justify="right")
    table.add_column("busiest thread")
    for idle in found.idle:
        numbers = f"{idle.cpu_percent:.3f}", f"{idle.wakes_per_s:.2f}", f"{idle.busiest_wakes_per_s:.2f}"
        table.add_row(idle.process, *numbers, idle.busiest)
    out.print(table)


def verdicts(out: Console, found: Sequence[Verdict]) -> None:
    """The budgets."""
    table = Table(title="Budgets", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("what")
    for name in ("budget", "measured"):
        table.add_column(name, justify="right")
    table.add_column("")
    marks = {True: "[green]✓[/green]", False: "[red]✗[/red]", None: "–"}
    for verdict in found:
        measured = "there is none" if verdict.measured is None else f"{verdict.measured:.2f} {verdict.unit}"
        table.add_row(marks[verdict.holds], verdict.what, f"≤ {verdict.limit:g} {verdict.unit}", measured, verdict.note)
    out.print(table)


def as_json(parts: Mapping[str, object]) -> bytes:
    """Everything, with a budget's verdict beside it."""

    def plain(part: object) -> object:
        if isinstance(part, Verdict):
            return {**msgspec.structs.asdict(part), "holds": part.holds}
        return part

    listed = {name: [plain(each) for each in part] if isinstance(part, list) else part for name, part in parts.items()}
    return msgspec.json.format(msgspec.json.encode(listed), indent=1)


def _median(found: Spread | None, scale: float = 1.0) -> str:
    return _number(found.median * scale if found else None)


def _range(found: Spread | None) -> str:
    return f"{_number(found.low)}–{_number(found.high)}" if found else ""


def _number(value: float | None) -> str:
    """Three digits are more than a shared machine gives."""
    if value is None or not value:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}"
