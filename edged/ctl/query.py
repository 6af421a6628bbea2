"""The commands that ask once and print the answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edged import __version__, clock
from edged.ctl import faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import Number
from edged.ctl.reach import Door
from edged.errors import Code, EdgedError

if TYPE_CHECKING:
    from edged.ctl.client import Client

# How soon an edged that is being started is looked for again.
_LOOK_AGAIN_S = 0.1


@click.command
@common
@click.pass_obj
def version(asked: Asked) -> None:
    """The versions of edgectl and of the running edged.

    It never fails: where edged cannot be asked, it says why.
    """
    daemon, reason = "", ""
    try:
        # A socket that nobody answers on is found without the library that would then ask.
        Door(Path(asked.settings.under(asked.root).listen.socket), asked.start_hint, asked.timeout_s).close()
        with _client(asked, admin=False) as client:
            daemon = client.server().version
    except EdgedError as error:
        reason = error.message
    if asked.as_json:
        output.document({"edgectl": __version__, "edged": daemon or None, "reason": reason})
    else:
        edged = daemon or reason.removeprefix("edged ").removeprefix("is ")
        output.table(output.fields([("edgectl", __version__), ("edged", edged)]))


@click.command
@common
@click.option(
    "--wait",
    "wait_s",
    type=Number(0, 86_400),
    default=0,
    metavar="SECONDS",
    help="Wait at most this long until edged runs and all is ready.",
)
@click.pass_obj
def status(asked: Asked, wait_s: float) -> int:
    """What edged is doing, and how its models are.

    Exit status: 0 when every model that should serve is ready, 1 when not.
    """
    if wait_s:
        _wait_ready(asked, wait_s)
    with _client(asked) as client:
        found = client.status()
    from edged.ctl import tables
    from edged.ctl.plain import plain

    if asked.as_json:
        output.document(plain(found))
    else:
        output.line(found.summary)
        output.line()
        output.table(tables.status(found, clock.wall()))
        if found.models:
            output.line()
            output.table(tables.short_models(found.models))
    return faults.DONE if found.ready else faults.NO


@click.command
@common
@click.pass_obj
def models(asked: Asked) -> None:
    """The models: what serves, what was passed over and why.

    REQUESTS counts since edged started: answered (ok), failed by the model or edged, and refused, as overload or as
    malformed.
    """
    with _client(asked) as client:
        found = client.models()
    from edged.ctl import tables
    from edged.ctl.plain import plain

    if asked.as_json:
        output.document(plain(found))
    elif not found.models:
        output.line("no models")
    else:
        output.table(tables.models(found.models, clock.wall()))
        _notes(tables.model_notes(found.models))


@click.command
@common
@click.option("--pss", is_flag=True, help="Show each one's proportional share too, which costs it some milliseconds.")
@click.pass_obj
def workers(asked: Asked, *, pss: bool) -> None:
    """The processes that run the models.

    CPU is the processor time that the process has used. Memory is in MiB: MIB is resident now, PRIVATE of it belongs to
    no file and no shared memory, PEAK was resident at most, ARENA is shared with edged for large tensors. LOAD is how
    long the process took until it was ready, and RESTARTS counts those before it that ended unasked.
    """
    with _client(asked) as client:
        found = client.workers(pss=pss)
    from edged.ctl import tables
    from edged.ctl.plain import plain

    if asked.as_json:
        output.document(plain(found))
    elif not found.workers:
        output.line("no workers")
    else:
        output.table(tables.workers(found.workers, pss=pss))
        _notes(tables.worker_notes(found.workers))


@click.command
@common
@click.option("--limit", type=Number(1, 2**32 - 1, whole=True), metavar="N", help="Only the newest N.")
@click.option("--after", type=Number(0, 2**64 - 1, whole=True), metavar="SEQ", help="Only those numbered above SEQ.")
@click.pass_obj
def events(asked: Asked, limit: int | None, after: int | None) -> None:
    """What happened since edged started.

    The oldest that is still kept comes first; `journalctl -u edged` has what is older. Times are this device's own, in
    the time zone of your session.
    """
    with _client(asked) as client:
        found = client.events(limit or 0, after or 0)
    from edged.ctl import tables
    from edged.ctl.plain import plain

    if asked.as_json:
        output.document(plain(found))
    elif not found.events:
        output.line("no events")
    else:
        output.table(tables.events(found.events, clock.wall()))


def _client(asked: Asked, *, admin: bool = True) -> Client:
    # Here, since `version` and the help of all of these need no grpc.
    from edged.ctl.client import Client

    return Client(asked, admin=admin)


def _wait_ready(asked: Asked, wait_s: float) -> None:
    """Returns when all is ready or the time is over. Raises EdgedError for what waiting does not mend."""
    end = clock.monotonic() + wait_s
    while (left_s := end - clock.monotonic()) > 0:
        try:
            with _client(asked) as client:
                if any(status.ready for status in client.watch(left_s)):
                    return
        except EdgedError as error:
            if error.code is not Code.NOT_RUNNING:
                raise
        time.sleep(min(_LOOK_AGAIN_S, left_s))  # only while there is no edged: one that runs tells by itself


def _notes(lines: list[str]) -> None:
    if lines:
        output.line()
    for each in lines:
        output.line(each)
