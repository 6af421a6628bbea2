"""`edgectl stats`: what models did since edged started, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence

import click

from edged._pb.inference import grpc_service_pb2 as pb
from edged.ctl import completion, output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import REVISION
from edged.ctl.output import Column, Table
from edged.ctl.words import mib


@click.command
@common
@click.argument("model", required=False, default="", shell_complete=completion.models)
@click.option("--revision", type=REVISION, metavar="N", help="Only this one.  [default: all]")
@click.pass_obj
def stats(asked: Asked, model: str, revision: int | None) -> None:
    """What models did since edged started, and where the time went.

    Of MODEL, or of all. ROWS is what was computed in so many BATCHES; the times are means per answered request, in
    milliseconds: WAIT in the queue, IN and OUT beside the engine, RUN in it, TOTAL from arrival to answer. Each request
    counts the whole time of its batch. For one model, its batches by size follow.
    """
    if revision is not None and not model:
        raise click.UsageError("--revision wants a MODEL")
    from edged.ctl.client import Client

    with Client(asked, admin=False) as client:
        found = client.statistics(model, revision)
    if asked.as_json:
        from edged.ctl.plain import plain

        output.document(plain(found))
        return
    if not found.model_stats:
        output.line("no models")
        return
    output.table(table(found.model_stats))
    for each in found.model_stats if model else ():
        if each.batch_stats:
            output.line()
            output.table(batches(each))


def table(found: Sequence[pb.ModelStatistics]) -> Table:
    """A line for each revision."""
    columns = (
        Column("MODEL", wraps=True),
        *(
            Column(title, right=True)
            for title in ("REV", "ROWS", "BATCHES", "OK", "FAILED", "TOTAL", "WAIT", "IN", "RUN", "OUT", "MIB")
        ),
    )
    rows = []
    for each in found:
        counted = each.inference_stats
        rows.append(
            (
                each.name,
                each.version,
                str(each.inference_count),
                str(each.execution_count),
                str(counted.success.count),
                str(counted.fail.count),
                _mean_ms(counted.success),
                _mean_ms(counted.queue),
                _mean_ms(counted.compute_input),
                _mean_ms(counted.compute_infer),
                _mean_ms(counted.compute_output),
                mib(sum(used.byte_size for used in each.memory_usage)),
            )
        )
    return Table(columns, rows)


def batches(of: pb.ModelStatistics) -> Table:
    """The batches of a revision by their rows; the times are means per batch."""
    columns = tuple(Column(title, right=True) for title in ("REV", "BATCH", "BATCHES", "IN", "RUN", "OUT"))
    rows = [
        (
            of.version,
            str(each.batch_size),
            str(each.compute_infer.count),
            _mean_ms(each.compute_input),
            _mean_ms(each.compute_infer),
            _mean_ms(each.compute_output),
        )
        for each in of.batch_stats
    ]
    return Table(columns, rows)


def _mean_ms(of: pb.StatisticDuration) -> str:
    return f"{of.ns / of.count / 1e6:.3g}" if of.count else "-"
