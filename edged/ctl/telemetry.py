"""`edgectl telemetry`: what waits for the operator, and whether anybody takes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from edged import clock
from edged.ctl import faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.words import ago, count, safe, size

if TYPE_CHECKING:
    from edged._pb.edged.v1 import telemetry_pb2


@click.command
@common
@click.pass_obj
def telemetry(asked: Asked) -> int:
    """What waits for the broker, and whether it takes it.

    Exit status: 0 when it does, or no broker is set; 1 when not.
    """
    from edged.ctl.client import Client
    from edged.ctl.plain import plain

    with Client(asked, admin=True) as client:
        found = client.telemetry()
    if asked.as_json:
        output.document(plain(found))
    else:
        output.table(output.fields(rows(found, clock.wall())))
    return faults.DONE if not found.broker or (found.connected and not found.problem) else faults.NO


def rows(found: telemetry_pb2.TelemetryStanding, now: datetime) -> list[tuple[str, str]]:
    """The table of one device."""
    connection = "connected" if found.connected else "not connected"
    sent = f"{count(found.sent, 'row')} since edged started"
    if found.last_sent_ms:
        sent += f", the last {ago(datetime.fromtimestamp(found.last_sent_ms / 1000, UTC), now)}"
    told = [
        ("device", f"{safe(found.device)} of fleet {safe(found.fleet)}"),
        ("broker", f"{safe(found.broker)}, {connection}" if found.broker else "none is set"),
        ("problem", safe(found.problem)),
        ("sent", sent),
        ("waiting", f"{count(found.windows, 'window')}, {count(found.events, 'event')}"),
        ("spool", f"{size(found.used_bytes)} of {size(found.cap_bytes)}; number {found.epoch}/{found.sequence}"),
        ("spool problem", safe(found.spool_problem)),
        ("lost", f"{count(found.lost.windows, 'window')}, {count(found.lost.events, 'event')}"),
        ("commands", ", ".join(f"{number} {safe(name)}" for name, number in sorted(found.commands.items()))),
    ]
    return [(name, text) for name, text in told if text]
