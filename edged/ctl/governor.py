"""`edgectl governor`: what the governor decided, decided again; no daemon is asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from edged.ctl import faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.words import count, duration
from edged.pressure.trace import Replayed


@click.group
@common
def governor() -> None:
    """Look into what pressure made edged decide.

    With pressure.trace_mib set, edged keeps traces of what it read and decided in paths.state.
    """


@governor.command
@common
@click.argument("trace", metavar="TRACE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="PNG", help="Draw it into a picture.")
@click.pass_obj
def replay(asked: Asked, trace: Path, plot: Path | None) -> int:
    """Decide a recorded trace again, and say what changed when.

    Exit status: 0 every decision is the same as recorded, 1 one is not.
    """
    from edged.pressure import trace as traces

    replayed = list(traces.replay(trace))
    if plot is not None:
        from edged.ctl import plot as plots

        plots.draw(plots.of_trace(replayed), plot)
    different = [each for each in replayed if not each.same]
    if asked.as_json:
        output.document(
            {
                "moments": len(replayed),
                "different": [each.moment.now for each in different],
                "changes": [msgspec.to_builtins(each.decision) | {"now": each.moment.now} for each in _turns(replayed)],
            }
        )
        return faults.NO if different else faults.DONE
    first = replayed[0].moment.now if replayed else 0.0
    columns = (output.Column("AT", right=True), output.Column("LEVELS"), output.Column("CAUSES", wraps=True))
    rows = [
        (
            duration(each.moment.now - first),
            _levels(each),
            "; ".join(cause.text for cause in each.decision.causes) or "-",
        )
        for each in _turns(replayed)
    ]
    if rows:
        output.table(output.Table(columns, rows))
        output.line()
    for each in different[:10]:
        output.line(f"at {each.moment.now - first:.1f} s it decided otherwise than it does now")
    same = f"{len(different)} decided otherwise" if different else "all decided the same again"
    output.line(f"{count(len(replayed), 'moment')}, {same}")
    return faults.NO if different else faults.DONE


def _turns(replayed: Iterable[Replayed]) -> list[Replayed]:
    """The moments at which a level changed, and the first."""
    found: list[Replayed] = []
    for each in replayed:
        if not found or found[-1].decision.levels != each.decision.levels:
            found.append(each)
    return found


def _levels(each: Replayed) -> str:
    pressed = [f"{resource} {level}" for resource, level in each.decision.levels.items() if level != "nominal"]
    return ", ".join(pressed) or "nominal"
