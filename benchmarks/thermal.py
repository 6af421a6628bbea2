"""Runs simulated devices hot for half an hour, with the governor and without, and prints what it gains.

The device, its kernel and its requests are simulated (tests/sim/device.py, benchmarks/hotwork.py); the governor is the
one that edged runs. It fails for no number; the budgets stand beside what was measured.

Throughput swings by the work done (seconds at full speed) and not by answers: those of the first priority come as they
come, each shorter than the others, and their number would swing under a device that never throttles.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, pstdev

from rich.console import Console
from rich.table import Table

from benchmarks import hotwork
from benchmarks.hotwork import Model, Run
from edged.bundle.manifest import Degradation
from edged.ctl import plot
from edged.ctl.plot import Curve, Panel
from edged.pressure.governor import Governor
from edged.pressure.levels import severity
from edged.pressure.policy import Policy, thresholds
from edged.pressure.readings import Trip
from edged.types import Level
from tests.sim.device import PROFILES, Device, Profile

WITHOUT, PLAIN, LIGHTER = "without", "governed", "with a lighter variant"
# A variant in eight bits takes about half of the time; only the model that matters less declares one.
_LIGHT_SHARE = 0.5
# The kernel's throttle comes and goes within seconds: longer windows hide it.
_SHORT_S, _LONG_S = 1.0, 10.0
_STEP_S = 0.25


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What one run showed."""

    throttled: float
    deadlines_met: float
    first_p99_s: float
    last_p99_s: float
    answered: int
    in_time: int
    worked_s: float
    """At full speed, in all."""
    swing: float
    """The standard deviation of the work done over its mean, in short windows, once the device is warm."""
    long_swing: float
    hottest_c: float
    changes: int
    """Of the level."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--profile", choices=PROFILES, action="append", help="may be given again; all by default")
    parser.add_argument("--ambient", type=float, default=40.0, metavar="CELSIUS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw each device into FOLDER/NAME.png")
    return parser.parse_args()


def main() -> None:
    """Runs them all."""
    chosen = arguments()
    out = Console(width=150)
    for name in chosen.profile or PROFILES:
        runs = run_all(PROFILES[name], chosen.minutes * 60, chosen.ambient, chosen.seed)
        numbers = {kind: measure(run, chosen.minutes * 60) for kind, run in runs.items()}
        out.print(table(PROFILES[name], numbers, chosen))
        if chosen.plot:
            chosen.plot.mkdir(parents=True, exist_ok=True)
            plot.draw(panels(PROFILES[name], runs), chosen.plot / f"{name}.png")
            out.print(f"drawn: {chosen.plot / name}.png")


def run_all(profile: Profile, seconds: float, ambient_c: float, seed: int) -> dict[str, Run]:
    """The same device and requests under each regime."""
    lighter = tuple(
        dataclasses.replace(model, light=_LIGHT_SHARE) if model.priority > 1 else model for model in hotwork.MODELS
    )
    declared = {model.name: {Level.ELEVATED: Degradation(variant="int8")} for model in lighter if model.light < 1}
    kinds: dict[str, tuple[Governor | None, tuple[Model, ...]]] = {
        WITHOUT: (None, hotwork.MODELS),
        PLAIN: (Governor(Policy()), hotwork.MODELS),
        LIGHTER: (Governor(Policy(), declared), lighter),
    }
    runs = {}
    for kind, (governor, models) in kinds.items():
        runs[kind] = run = Run(Device(profile, ambient_c, random.Random(seed)), governor, models, seed)
        run.advance(seconds)
    return runs


def measure(run: Run, seconds: float) -> Numbers:
    """The numbers of a run; minutes are those in which requests came."""
    important = [request for request in run.requests if request.model.priority == 1]
    # Whoever came so late that the run ended first is not counted.
    judged = [request for request in important if request.came <= seconds - request.model.deadline_s]
    levels = [sample.level for sample in run.samples]
    return Numbers(
        throttled=run.device.throttled_s / seconds,
        deadlines_met=sum(request.met for request in judged) / len(judged),
        first_p99_s=_p99([request for request in important if request.came < 60]),
        last_p99_s=_p99([request for request in important if seconds - 60 <= request.came]),
        answered=sum(request.answered is not None for request in run.requests),
        in_time=sum(request.met for request in run.requests),
        worked_s=sum(request.worked_s for request in run.requests if request.answered is not None),
        swing=swing(run, seconds, _SHORT_S),
        long_swing=swing(run, seconds, _LONG_S),
        hottest_c=max(sample.temperature_c for sample in run.samples),
        changes=sum(one is not other for one, other in itertools.pairwise(levels)),
    )


def swing(run: Run, seconds: float, window_s: float) -> float:
    """Of the work done in windows of the last two thirds."""
    windows = [0.0] * int(seconds / window_s)
    for request in run.requests:
        if request.answered is not None and request.answered < len(windows) * window_s:
            windows[int(request.answered / window_s)] += request.worked_s
    late = windows[len(windows) // 3 :]
    return pstdev(late) / mean(late)


def most_at_full_clock(profile: Profile, seconds: float, ambient_c: float) -> float:
    """The most work, in seconds, that any sharing out of time at full clock can do with the kernel never throttling.

    It knows the device as nobody can: in each step it computes just so much that the die ends at the trip point.
    """
    device = Device(dataclasses.replace(profile, trip_c=math.inf), ambient_c)
    worked_s = 0.0
    while device.now < seconds:
        busy = device.busy_to_reach(profile.trip_c, _STEP_S)
        device.advance(_STEP_S, busy)
        worked_s += busy * _STEP_S
    return worked_s


def _p99(requests: Sequence[hotwork.Request]) -> float:
    """Of those that were answered; one that was not counts as infinitely late."""
    took = sorted(math.inf if each.answered is None else each.answered - each.came for each in requests)
    return took[int(len(took) * 0.99)] if took else math.nan


def table(profile: Profile, numbers: dict[str, Numbers], chosen: argparse.Namespace) -> Table:
    """The numbers of one device, the budgets beside them."""
    title = f"{profile.name}, {chosen.minutes:g} minutes at full load, {chosen.ambient:g} °C around it"
    found = Table(title=title, title_justify="left")
    for head in ("", *numbers, "budget", "holds"):
        found.add_column(head, justify="left" if not head else "right")
    base = numbers[WITHOUT]
    governed = [numbers[kind] for kind in (PLAIN, LIGHTER)]

    def row(what: str, texts: list[str], budget: str = "", holds: Sequence[bool] = ()) -> None:
        found.add_row(what, *texts, budget, " / ".join("yes" if each else "NO" for each in holds))

    all_of = list(numbers.values())
    row(
        "throttled", [f"{each.throttled:.1%}" for each in all_of], "< 1 %", [each.throttled < 0.01 for each in governed]
    )
    row(
        "deadlines met by priority 1",
        [f"{each.deadlines_met:.2%}" for each in all_of],
        "≥ 99.5 %",
        [each.deadlines_met >= 0.995 for each in governed],
    )
    row(
        "p99 of priority 1, first and last minute, ms",
        [f"{each.first_p99_s * 1000:.0f} → {each.last_p99_s * 1000:.0f}" for each in all_of],
        "≤ 1.2 x first",
        [each.last_p99_s <= 1.2 * each.first_p99_s for each in governed],
    )
    row(
        "answered",
        [f"{each.answered}" for each in all_of],
        "≥ without",
        [e.answered >= base.answered for e in governed],
    )
    most_s = most_at_full_clock(profile, chosen.minutes * 60, chosen.ambient)
    row("work done, of the most possible at full clock", [f"{each.worked_s / most_s:.1%}" for each in all_of])
    row("answered in time", [f"{each.in_time}" for each in all_of], "", [e.in_time >= base.in_time for e in governed])
    row(
        f"work in {_SHORT_S:g} s, deviation over mean",
        [f"{each.swing:.3f}" for each in all_of],
        f"≤ {base.swing / 3:.3f}",
        [each.swing <= base.swing / 3 for each in governed],
    )
    row(f"work in {_LONG_S:g} s, deviation over mean", [f"{each.long_swing:.3f}" for each in all_of])
    row("hottest, °C", [f"{each.hottest_c:g}" for each in all_of], f"trip {profile.trip_c:g}")
    row("changes of the level", [f"{each.changes}" for each in all_of])
    return found


def panels(profile: Profile, runs: dict[str, Run]) -> list[Panel]:
    """All regimes of one device, in the same axes."""
    at = thresholds((Trip("passive", profile.trip_c), Trip("critical", profile.critical_c)), Policy())
    marks = (("the kernel throttles", profile.trip_c), ("set point", at.set_c))
    samples = {kind: run.samples for kind, run in runs.items()}

    def curves(value: str, *, steps: bool = False) -> list[Curve]:
        found = {kind: [(each.at, float(getattr(each, value))) for each in seen] for kind, seen in samples.items()}
        return [Curve(kind, points, steps) for kind, points in found.items()]

    throughput = {
        kind: [
            (each.at, mean(other.answered for other in seen[max(number - 9, 0) : number + 1]))
            for number, each in enumerate(seen)
        ]
        for kind, seen in samples.items()
    }
    level = {kind: [(each.at, float(severity(each.level))) for each in seen] for kind, seen in samples.items()}
    most = max(value for points in throughput.values() for _, value in points)
    return [
        Panel(f"{profile.name}: temperature, °C", curves("temperature_c"), 40, profile.trip_c + 4, marks),
        Panel("duty", curves("duty", steps=True), 0, 1.05),
        plot.level_panel([Curve(kind, points, steps=True) for kind, points in level.items()]),
        Panel(
            "throughput, answers a second, mean of 10 s", [Curve(k, v) for k, v in throughput.items()], 0, most * 1.1
        ),
    ]


if __name__ == "__main__":
    main()
