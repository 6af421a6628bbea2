"""`edgectl bench`: loads a model, and says how it answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edged.ctl import completion, faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import REVISION, Number
from edged.ctl.output import Column, Table
from edged.ctl.words import count
from edged.errors import Code, EdgedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edged._pb.edged.v1 import admin_pb2
    from edged._pb.inference import grpc_service_pb2 as pb
    from edged.ctl.client import Client
    from edged.ctl.measured import Cpu, Part

# What is below a model's lowest priority is that.
_LOWEST_PRIORITY = 100

# Different ones, so that nothing on the way can remember the answer.
_REQUESTS = 8


class Result(msgspec.Struct, frozen=True):
    """What a run found."""

    model: str
    revision: int
    variant: str
    callers: int
    rate: float
    rows: int
    priority: int
    parts: tuple[Part, ...]
    cpu: Cpu | None


@click.command
@common
@click.argument("model", shell_complete=completion.models)
@click.option("--callers", type=Number(1, 1000, whole=True), metavar="N", help="So many at a time.  [default: 1]")
@click.option("--rate", type=Number(0.01, 100_000), metavar="R", help="Instead: R requests a second, come what may.")
@click.option("--seconds", type=Number(0.1, 86_400), metavar="S", help="How long it goes on.  [default: 10]")
@click.option("--minutes", type=Number(1, 1440), metavar="M", help="The same in minutes; from 2 on, first beside last.")
@click.option("--rows", type=Number(1, 65_536, whole=True), default=1, show_default=True, metavar="N", help="Of each.")
@click.option("--revision", type=REVISION, metavar="N", help="Ask this one.  [default: that which serves]")
@click.option(
    "--priority",
    type=Number(1, 100, whole=True),
    metavar="N",
    help="Of each request, 1 being the highest.  [default: the lowest]",
)
@click.pass_obj
def bench(
    asked: Asked,
    model: str,
    callers: int | None,
    rate: float | None,
    seconds: float | None,
    minutes: float | None,
    rows: int,
    revision: int | None,
    priority: int | None,
) -> int:
    """Load a model, and measure how it answers.

    This takes processor time from whoever else asks edged. By default its requests have the lowest priority, so that
    others go first; the numbers are then those of what is left. Ctrl-C ends it early and prints what was measured.

    Callers either ask again when they have their answer, or come R a second whatever became of those before. In that
    case a request's time counts from when it was due, and at most 1000 are under way. What is sent is random numbers
    in what the model takes, free dimensions being 1; times are in milliseconds. edged is told that it is made up:
    no new revision is compared by it and no drift counted; its errors and latency count as anybody's.

    Exit status: 0 when something was answered, 1 when nothing was.
    """
    if callers is not None and rate is not None:
        raise click.UsageError("--callers and --rate exclude each other")
    if seconds is not None and minutes is not None:
        raise click.UsageError("--seconds and --minutes exclude each other")
    lasts_s = minutes * 60 if minutes else seconds or 10.0
    from edged.ctl.callers import Load, Plan
    from edged.ctl.client import Client
    from edged.ctl.measured import cpu

    with Client(asked, admin=False) as client:
        requests = _requests(client, model, revision, rows, priority or _LOWEST_PRIORITY)
        answer = client.infer(requests[0])  # what is refused for itself is told here, once
        who = f"{rate:g} requests a second" if rate else count(callers or 1, "caller")
        output.warn(f"this device is loaded for {lasts_s:g} s, by {who}; others that ask it may wait; Ctrl-C ends it")
        plan = Plan(lasts_s, asked.timeout_s, callers or 1, rate or 0.0)
        load = Load(client.address, [each.SerializeToString() for each in requests], plan, _sensors(asked))
        before = _status(asked, why_not=True)
        gone = None
        try:
            asyncio.run(load.run())
        except KeyboardInterrupt:
            output.note("ended early")
        except EdgedError as error:
            gone = error
        after = None if gone else _status(asked)
    result = Result(
        model=model,
        revision=int(answer.model_version),
        variant=answer.parameters["edged_variant"].string_param,
        callers=0 if rate else callers or 1,
        rate=rate or 0.0,
        rows=rows,
        priority=priority or _LOWEST_PRIORITY,
        parts=load.measured.parts(),
        cpu=cpu(before, after, model) if before is not None and after is not None else None,
    )
    if asked.as_json:
        output.document(msgspec.to_builtins(result))
    else:
        _tell(result)
    if gone is not None:
        output.fail(str(gone))
        return faults.exit_status(gone)
    return faults.DONE if result.parts[0].answered else faults.NO


def _requests(client: Client, model: str, revision: int | None, rows: int, priority: int) -> list[pb.ModelInferRequest]:
    import numpy as np

    from edged.ctl import invented, requests
    from edged.rpc.parameters import SYNTHETIC

    takes = [requests.spec(tensor) for tensor in client.metadata(model, revision).inputs]
    batches = client.config(model, revision).config.max_batch_size > 0
    chance = np.random.default_rng(0)  # the same ones each time, so that runs can be compared
    found = []
    for _ in range(_REQUESTS):
        made = requests.request(model, revision, invented.arrays(takes, rows, batches=batches, chance=chance), takes)
        made.parameters["priority"].int64_param = priority
        made.parameters[SYNTHETIC].bool_param = True
        found.append(made)
    return found


def _status(asked: Asked, *, why_not: bool = False) -> admin_pb2.Status | None:
    """The daemon's state; None, with a note, where this person may not ask for it."""
    from edged.ctl.client import Client

    try:
        with Client(asked, admin=True) as client:
            return client.status()
    except EdgedError as error:
        if error.code is not Code.NOT_PERMITTED:
            raise
        if why_not:
            output.note(f"edged's processor time is not told: {error}")
        return None


def _sensors(asked: Asked) -> Any:
    """What reads the hottest sensor that edged acts on, in °C; None where there is none."""
    from edged.pressure.sensors import Sensors

    sensors = Sensors(asked.root, Path(asked.settings.under(asked.root).paths.state))

    def hottest() -> float | None:
        found = (each.celsius for each in sensors.read().temperatures)
        return max((celsius for celsius in found if celsius is not None), default=None)

    return hottest


def _tell(result: Result) -> None:
    who = f"{result.rate:g} requests a second" if result.rate else count(result.callers, "caller")
    priority = "the lowest priority" if result.priority == _LOWEST_PRIORITY else f"priority {result.priority}"
    rows = count(result.rows, "row") + " each"
    output.line(f"{result.model} revision {result.revision}, variant {result.variant}: {who}, {rows}, {priority}")
    output.line()
    output.table(table(result.parts))
    output.line()
    if result.cpu is None:
        output.line("processor time per request: n/a")
    else:
        front, workers = result.cpu.front_us, result.cpu.workers_us
        output.line(f"processor time per request: {front + workers:.0f} µs (edged {front:.0f}, workers {workers:.0f})")
    whole = result.parts[0]
    if whole.errors:
        output.line("errors: " + ", ".join(f"{code} {number}" for code, number in whole.errors.items()))
    if whole.not_sent:
        output.line(f"not sent, since too many were under way: {whole.not_sent}")


def table(parts: Sequence[Part]) -> Table:
    """A line for each part of a run."""
    titles = ("ANSWERED", "REQ/S", "P50", "P90", "P99", "MAX", "ERRORS", "°C")
    rows = [
        (
            each.part,
            str(each.answered),
            f"{each.requests_per_s:.4g}",
            *(
                "-" if found is None else f"{found:.3g}"
                for found in (each.p50_ms, each.p90_ms, each.p99_ms, each.longest_ms)
            ),
            str(sum(each.errors.values())),
            "n/a" if each.hottest_c is None else f"{each.hottest_c:.0f}",
        )
        for each in parts
    ]
    return Table((Column("PART"), *(Column(title, right=True) for title in titles)), rows)
